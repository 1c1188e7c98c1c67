"""Hugging Face's files of weights: model.safetensors, or where it is missing an index and shards."""

import contextlib
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
from etils import epath

from prompt_tuning.checkpoints import lazy_arrays

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Weights of the same model in formats that are not read.
UNREAD = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
LARGEST_CHUNK = 2**24  # bytes
LARGEST_HEADER = 10**8  # bytes, safetensors's own limit


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[dict[str, lazy_arrays.LazyArray]]:
    """{name: LazyArray} over all files of weights in a folder, in the format's names.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged.
    """
    path = epath.Path(path)
    stored = {}
    with contextlib.ExitStack() as stack:
        for file in _files(path):
            copy = stack.enter_context(local(file))
            try:
                stored |= _leaves(copy)
            except safetensors.SafetensorError as error:
                raise ValueError(
                    f"{file} is damaged ({error}); expected a safetensors file. Copy it again."
                ) from error
        yield stored


def shapes(path: epath.PathLike) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all tensors; no weights are read, and no file is copied. Raises as `opened`."""
    return {
        name: shape for file in _files(epath.Path(path)) for name, shape in _header(file).items()
    }


def warn_of_index(path: epath.PathLike) -> None:
    """Logs that an index beside model.safetensors is not read: one of both may be out of date."""
    path = epath.Path(path)
    if (path / WEIGHTS).exists() and (path / INDEX).exists():
        logging.warning(
            "%s has both %s and %s: reading the former, as transformers does. Delete the one that "
            "is out of date.",
            path,
            WEIGHTS,
            INDEX,
        )


def read_json(path: epath.Path) -> dict:
    """A file with a JSON object. Raises ValueError where it is none."""
    try:
        return dict(json.loads(path.read_text()))
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a JSON object ({error}); expected one. Copy the file again."
        ) from error


def whole_number(
    file: epath.Path,
    config: Mapping[str, Any],
    name: str,
    default: int | None = None,
    least: int = 1,
) -> int:
    """A size in what `read_json` gave. Raises ValueError unless it is a whole number below 2**31."""
    value = default if config.get(name) is None else config[name]
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(
            f"{file} has {name} {shown(value)}; expected an integer of at least {least} and below "
            "2**31. Copy the file again."
        )
    return value


def shown(value: Any) -> str:
    """A value of a file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _files(path: epath.Path) -> list[epath.Path]:
    """The files of weights in a folder in transformers' order: the one, or those of its index."""
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    files = [path / name for name in _listed(path)]
    if missing := [file.name for file in files if not file.exists()]:
        raise FileNotFoundError(
            f"{path} lacks {', '.join(missing)}, which {INDEX} lists; expected all shards, or "
            f"{WEIGHTS}. Copy the model (INITIAL_CHECKPOINT_PATH) again."
        )
    if not files:
        others = [name for name in UNREAD if (path / name).exists()]
        advice = "Copy the model again, or set another INITIAL_CHECKPOINT_PATH"
        if variants := sorted(file.name for file in path.glob("*.safetensors")):
            advice = (
                f"The folder has {', '.join(variants[:3])}: rename a complete file to {WEIGHTS}, "
                "or save the model with save_pretrained(folder) without variant="
            )
        if others:
            advice = (
                f"{others[0]} is not read, because it is not safetensors: load the model with "
                "transformers, call save_pretrained(folder) and set INITIAL_CHECKPOINT_PATH to "
                "that folder"
            )
        raise FileNotFoundError(
            f"{path} has no {WEIGHTS}; expected it in the same folder as config.json. {advice}."
        )
    return files


def _listed(path: epath.Path) -> list[str]:
    """Returns the file names in an index; none without an index."""
    if not (path / INDEX).exists():
        return []
    weight_map = read_json(path / INDEX).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict):
        raise ValueError(
            f"{path / INDEX} has no weight_map, or an empty one; expected {{tensor: file}}. Copy "
            "it again."
        )
    for file in weight_map.values():
        if not isinstance(file, str) or "/" in file or file in ("", ".", ".."):
            raise ValueError(
                f"{path / INDEX} refers to a file outside its folder ({file!r}); expected a file "
                "name. Use another copy of the model."
            )
    return sorted(set(weight_map.values()))


def _header(path: epath.Path) -> dict[str, tuple[int, ...]]:
    """Reads {name: shape} from the header of a safetensors file, and checks the size of the file.

    The file begins with the length of the header (8 bytes) and the header, a JSON object with the
    offsets of all tensors.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        content = file.read(min(length, LARGEST_HEADER))
    try:
        tensors = dict(json.loads(content))
        tensors.pop("__metadata__", None)
        expected = 8 + length + max((x["data_offsets"][1] for x in tensors.values()), default=0)
        if (size := path.stat().length) != expected:
            raise ValueError(f"{size} bytes; expected {expected}")
        return {name: tuple(map(int, tensor["shape"])) for name, tensor in tensors.items()}
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); expected a complete safetensors file. Copy it again."
        ) from error


def _leaves(file: str) -> dict[str, lazy_arrays.LazyArray]:
    arrays = {}
    with safetensors.safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118, it is not a mapping
            tensor = tensors.get_slice(name)
            shape = tuple(tensor.get_shape())
            dtype = tensor[tuple(slice(0, 1) for _ in shape)].dtype  # an empty one reads all
            row = math.prod(shape[1:]) * dtype.itemsize
            rows = max(1, LARGEST_CHUNK // row) if row else shape[0] if shape else 1
            arrays[name] = lazy_arrays.LazyArray(
                shape, dtype, (rows, *shape[1:])[: len(shape)], _reader(file, name)
            )
    return arrays


def _reader(file: str, name: str):
    def read(box: lazy_arrays.Index) -> np.ndarray:
        # A file that stays open stays mapped, and what is read of it counts as memory of the process.
        with safetensors.safe_open(file, framework="numpy") as tensors:
            return tensors.get_slice(name)[box] if box else tensors.get_tensor(name)

    return read


@contextlib.contextmanager
def local(path: epath.Path) -> Iterator[str]:
    """The file itself, or a copy while it is needed: safetensors maps local files only."""
    if not _is_remote(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(path.copy(epath.Path(folder) / path.name))


def _is_remote(path: epath.Path) -> bool:
    return "://" in str(path)
