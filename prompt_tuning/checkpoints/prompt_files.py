"""A prompt on disk: `<name>.npy` [P, D] float32 and its card `<name>.json`."""

import io
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from jaxtyping import Array, Float

SUFFIX = ".npy"


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
    prompt = read_table(path, "PROMPT_FILE")
    if shape is not None and prompt.shape != tuple(shape):
        raise ValueError(
            f"PROMPT_FILE {path} holds a prompt of shape {prompt.shape}, the model needs {tuple(shape)}; "
            f"PROMPT_LENGTH must be {prompt.shape[0]} and the model gin file one of width "
            f"{prompt.shape[1]}"
        )
    return prompt


def read_table(path: epath.PathLike, setting: str) -> np.ndarray:
    """Reads a table of a .npy file as float32 [N, D]; `setting` named it. Raises as `load`."""
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{setting} {path} does not exist")
    try:
        table = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{setting} {path} is not a .npy file of numbers ({error})") from error
    if table.dtype == np.dtype("V2"):  # numpy's name for bfloat16
        table = table.view(ml_dtypes.bfloat16)
    if table.ndim != 2 or table.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
        raise ValueError(
            f"{setting} {path} holds {table.dtype} {table.shape}, not a float table [P, D]"
        )
    table = table.astype(np.float32)
    if not np.isfinite(table).all():
        raise ValueError(
            f"{setting} {path} has NaN or infinite values; expected finite ones: the run that "
            "wrote it diverged"
        )
    return table


def length(path: epath.PathLike) -> int:
    """P of a prompt file."""
    return load(path).shape[0]


def place(path: epath.PathLike) -> str | tuple[int, ...]:
    """Where the prompt of a file stands in an input, by its card; "prefix" where no card says it."""
    told = read_card(path).get("place", "prefix")
    return tuple(told) if isinstance(told, list) else told


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
