"""The prompt files that PROMPT_FILE names: one, those of a run's folder, those of a pattern."""

import os
import re
from collections.abc import Sequence

from etils import epath

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints.formats import peft

SUFFIXES = (prompt_files.SUFFIX, prompt_files.SUFFIX_OF_LEAVES)
MODES = ("specific", "latest", "all")
# What lies beside prompts: their cards, and what was not written to the end.
NO_PROMPTS = (".json", ".tmp")


def find(
    path: epath.PathLike | Sequence[epath.PathLike] | None, mode: str = "specific"
) -> list[str]:
    """The prompt files that PROMPT_FILE names, those of a folder or a pattern by their steps.

    Args:
      path: a file, an adapter of PEFT, a run's folder (prompts/prompt_<step>.npy or .npz in it), a
        pattern with * of files and adapters, or a sequence of such; None for none, of a model
        without prompt.
      mode: RESTORE_MODE, T5X's: "specific" and "all" for all that is named, "latest" for the
        last of them.

    Raises:
      ValueError: an unknown mode.
      FileNotFoundError: a folder or a pattern without prompts.
    """
    if mode not in MODES:
        raise ValueError(
            f"RESTORE_MODE={mode!r} is unknown; expected one of {', '.join(MODES)}. Set "
            "RESTORE_MODE to one of them."
        )
    given = [path] if isinstance(path, str | os.PathLike) else list(path or ())
    found = sorted(
        (file for each in given for file in _named(epath.Path(each))),
        key=lambda file: step_of(file) or 0,
    )
    return found[-1:] if mode == "latest" else found


def best(path: epath.PathLike) -> str:
    """The one prompt that PROMPT_FILE names; of a run's folder the best, else its last one.

    Raises:
      FileNotFoundError: as `find`.
      ValueError: a pattern that matches several, or a folder with the runs of several seeds.
    """
    folder = epath.Path(path)
    if folder.is_dir() and not peft.is_adapter(folder):
        files = [folder / "prompts" / f"best{suffix}" for suffix in SUFFIXES]
        return next((os.fspath(file) for file in files if file.exists()), None) or find(path)[-1]
    files = find(path)
    if len(files) > 1:
        raise ValueError(
            f"PROMPT_FILE {path} matches {len(files)} prompts: {', '.join(files)}; expected one. "
            "Set PROMPT_FILE to one of them."
        )
    return files[0]


def _named(path: epath.Path) -> list[str]:
    parts = path.parts
    magic = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), None)
    if peft.is_adapter(path):
        return [os.fspath(path)]
    if path.is_dir():
        folders, prompts = [path], path / "prompts"
        # No glob: the folder's own name may have signs of a pattern.
        beside = prompts.iterdir() if prompts.is_dir() else ()
        found = [file for file in beside if re.fullmatch(r"prompt_.*\.np[yz]", file.name)]
        runs = (
            [] if found else sorted(each for each in path.iterdir() if (each / "prompts").is_dir())
        )
        if runs:
            raise ValueError(
                f"PROMPT_FILE {path} contains several runs: {', '.join(map(os.fspath, runs))}; "
                "expected one. Set PROMPT_FILE to one of them."
            )
    elif magic is None or path.exists():
        return [os.fspath(path)]
    else:
        matches = list(epath.Path(*parts[:magic]).glob("/".join(parts[magic:])))
        found = [file for file in matches if _is_prompt(file)]
        folders = [file for file in matches if file.is_dir()]
    if not found:
        adapters = "".join(map(prompt_files.describe_adapters, folders))
        expected = (
            "a file, a PEFT adapter, a pattern of these, or the MODEL_DIR of a run, with "
            f"prompts/prompt_<step>{prompt_files.SUFFIX}. Correct PROMPT_FILE."
        )
        raise FileNotFoundError(
            f"PROMPT_FILE {path} matches no prompt"
            + (
                f", but folders{adapters}; expected these adapters, or "
                if adapters
                else "; expected "
            )
            + expected
        )
    return [os.fspath(file) for file in found]


def _is_prompt(path: epath.Path) -> bool:
    """Whether a match of a pattern is an adapter, or a file that is no part of one."""
    if path.is_dir():
        return peft.is_adapter(path)
    # The paper authors' files have no suffix.
    return path.suffix not in NO_PROMPTS and not peft.is_adapter(path.parent)


def numbered(paths: Sequence[epath.PathLike]) -> dict[str, epath.PathLike]:
    """Several prompt files by the names "0", "1", …, to be in one table."""
    return {str(number): path for number, path in enumerate(paths)}


def first(paths: Sequence[epath.PathLike]) -> epath.PathLike | None:
    """The one that a model is made with before it gets the others; None of none."""
    return paths[0] if paths else None


def check_places(paths: Sequence[epath.PathLike]) -> None:
    """Raises ValueError where prompts stand at different places of an input, by their cards."""
    places = {os.fspath(path): prompt_files.place(path) for path in paths}
    if len(set(places.values())) > 1:
        lines = "".join(f"\n  {path}: {place!r}" for path, place in places.items())
        raise ValueError(
            f"PROMPT_FILE lists prompts with different places in the input:{lines}\nExpected the same place for all. "
            "Evaluate the prompts of each place separately, with their own PROMPT_FILE and EVAL_OUTPUT_DIR."
        )


def step_of(path: epath.PathLike) -> int | None:
    """The step of the run that a prompt file was written at: its card's, its name's, its folder's.

    The paper authors' files lie in folders `checkpoint_<step>`; transformers' Trainer writes adapters
    to `checkpoint-<step>`, or to a folder by the adapter's name in that.
    """
    path = epath.Path(path)
    named = re.search(r"_(\d+)(\.np[yz])?$", path.name)
    for name in (path.name, path.parent.name):
        named = named or re.fullmatch(r"checkpoint[-_](\d+)", name)
    return prompt_files.read_card(path).get("step", named and int(named[1]))
