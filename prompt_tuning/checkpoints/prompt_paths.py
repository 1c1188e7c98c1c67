"""The prompt files that PROMPT_FILE names: one, those of a run's folder, those of a pattern."""

import os
import re
from collections.abc import Sequence

from etils import epath

from prompt_tuning.checkpoints import prompt_files

MODES = ("specific", "latest", "all")
SUFFIXES = (prompt_files.SUFFIX, prompt_files.SUFFIX_OF_LEAVES)


def find(
    path: epath.PathLike | Sequence[epath.PathLike] | None, mode: str = "specific"
) -> list[str]:
    """The prompt files that PROMPT_FILE names, those of a folder or a pattern by their steps.

    Args:
      path: a file, a run's folder (prompts/prompt_<step>.npy or .npz in it), a pattern with *, or a
        sequence of such; None for none, of a model without prompt.
      mode: RESTORE_MODE, T5X's: "specific" and "all" for all that is named, "latest" for the
        last of them.

    Raises:
      ValueError: an unknown mode.
      FileNotFoundError: a folder or a pattern without prompts.
    """
    if mode not in MODES:
        raise ValueError(f"RESTORE_MODE is {mode!r}; expected one of {', '.join(MODES)}")
    given = [path] if isinstance(path, str | os.PathLike) else list(path or ())
    found = sorted(
        (file for each in given for file in _named(epath.Path(each))),
        key=lambda file: step_of(file) or 0,
    )
    return found[-1:] if mode == "latest" else found


def _named(path: epath.Path) -> list[str]:
    parts = path.parts
    magic = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), None)
    if magic is not None:
        found = epath.Path(*parts[:magic]).glob("/".join(parts[magic:]))
        found = [file for file in found if file.suffix in SUFFIXES]
    elif path.is_dir():
        found = list((path / "prompts").glob("prompt_*.np[yz]"))
    else:
        return [os.fspath(path)]
    if not found:
        raise FileNotFoundError(
            f"PROMPT_FILE {path} names no prompt; expected a file, a pattern of files, or the "
            f"MODEL_DIR of a run, with prompts/prompt_<step>{prompt_files.SUFFIX}"
        )
    return [os.fspath(file) for file in found]


def numbered(paths: Sequence[epath.PathLike]) -> dict[str, epath.PathLike]:
    """Several prompt files by the names "0", "1", …, to be in one table."""
    return {str(number): path for number, path in enumerate(paths)}


def first(paths: Sequence[epath.PathLike]) -> epath.PathLike:
    """The one that a model is made with before it gets the others."""
    return paths[0]


def step_of(path: epath.PathLike) -> int | None:
    """The step of the run that a prompt file was written at: its card's, or its name's."""
    named = re.search(r"_(\d+)(\.np[yz])?$", epath.Path(path).name)
    step = prompt_files.read_card(path).get("step", named and int(named[1]))
    return step if isinstance(step, int) else None
