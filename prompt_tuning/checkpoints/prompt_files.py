"""A prompt on disk: `<name>.npy` [P, D] float32 and its card `<name>.json`."""

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from jaxtyping import Array, Float

SUFFIX = ".npy"
MODES = ("specific", "latest", "all")


def save(
    path: epath.PathLike, prompt: Float[Array | np.ndarray, "P D"], card: Mapping[str, Any]
) -> None:
    """Writes the prompt and its card, each whole or not at all.

    Args:
      path: ends with .npy; the card lies beside it with .json.
      prompt: the table.
      card: what the prompt belongs to and how good it is; JSON values.
    """
    path = epath.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"a prompt file is named <name>.npy, not {path.name!r}")
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(prompt, np.float32), allow_pickle=False)
    text = json.dumps(dict(card), indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, buffer.getvalue())
    _write(_card_path(path), text.encode())


def load(path: epath.PathLike, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a prompt as float32 [P, D]; float16 and bfloat16 files are widened.

    Args:
      path: a .npy file; the suffix may be absent, as in the paper authors' files.
      shape: (P, D) that the model has, to be checked.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not a .npy file, pickled, of another shape, or with values that are not finite.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"PROMPT_FILE {path} does not exist")
    try:
        prompt = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"PROMPT_FILE {path} is not a .npy file of numbers ({error})") from error
    if prompt.dtype == np.dtype("V2"):  # numpy's name for bfloat16
        prompt = prompt.view(ml_dtypes.bfloat16)
    if prompt.ndim != 2 or prompt.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
        raise ValueError(
            f"PROMPT_FILE {path} holds {prompt.dtype} {prompt.shape}, not a float table [P, D]"
        )
    if shape is not None and prompt.shape != tuple(shape):
        raise ValueError(
            f"PROMPT_FILE {path} holds a prompt of shape {prompt.shape}, the model needs {tuple(shape)}; "
            f"PROMPT_LENGTH must be {prompt.shape[0]} and the model gin file one of width "
            f"{prompt.shape[1]}"
        )
    prompt = prompt.astype(np.float32)
    if not np.isfinite(prompt).all():
        raise ValueError(
            f"PROMPT_FILE {path} has NaN or infinite values; expected finite ones: the run that "
            "wrote it diverged"
        )
    return prompt


def find(
    path: epath.PathLike | Sequence[epath.PathLike] | None, mode: str = "specific"
) -> list[str]:
    """The prompt files that PROMPT_FILE names, those of a folder or a pattern by their steps.

    Args:
      path: a file, a run's folder (prompts/prompt_<step>.npy in it), a pattern with *, or a
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
        found = [file for file in found if file.suffix == SUFFIX]
    elif path.is_dir():
        found = list((path / "prompts").glob(f"prompt_*{SUFFIX}"))
    else:
        return [os.fspath(path)]
    if not found:
        raise FileNotFoundError(
            f"PROMPT_FILE {path} names no prompt; expected a file, a pattern of files, or the "
            f"MODEL_DIR of a run, with prompts/prompt_<step>{SUFFIX}"
        )
    return [os.fspath(file) for file in found]


def first(paths: Sequence[epath.PathLike]) -> epath.PathLike:
    """The one that a model is made with before it gets the others."""
    return paths[0]


def step_of(path: epath.PathLike) -> int | None:
    """The step of the run that a prompt file was written at: its card's, or its name's."""
    named = re.search(r"_(\d+)(\.npy)?$", epath.Path(path).name)
    step = read_card(path).get("step", named and int(named[1]))
    return step if isinstance(step, int) else None


def length(path: epath.PathLike) -> int:
    """P of a prompt file."""
    return load(path).shape[0]


def base_model_digest(path: epath.PathLike) -> str | None:
    """Identity of the model that a prompt file was trained with; None where no card says it."""
    return read_card(path).get("base_model_digest")


def read_card(path: epath.PathLike) -> dict[str, Any]:
    """The card beside a prompt file; {} where there is none."""
    card = _card_path(epath.Path(path))
    if not card.exists():
        return {}
    try:
        return dict(json.loads(card.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{card} is not a JSON object ({error}); restore or delete it") from error


def _card_path(path: epath.Path) -> epath.Path:
    return path.parent / (path.name.removesuffix(SUFFIX) + ".json")


def _write(path: epath.Path, content: bytes) -> None:
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(path)
