"""Hugging Face's files of weights: model.safetensors, or an index and shards."""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator

import numpy as np
import safetensors
from etils import epath

from prompt_tuning.checkpoints import leaves

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_CHUNK = 2**24  # bytes


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[dict[str, leaves.Leaf]]:
    """{name: leaf} over all files of weights in a folder, in the format's names.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged.
    """
    path = epath.Path(path)
    if (path / INDEX).exists():
        files = sorted(set(read_json(path / INDEX)["weight_map"].values()))
    else:
        files = [WEIGHTS]
    stored = {}
    with contextlib.ExitStack() as stack:
        for name in files:
            if not (path / name).exists():
                raise FileNotFoundError(
                    f"{path / name} is missing; INITIAL_CHECKPOINT_PATH must be a folder with "
                    f"{WEIGHTS} (convert pytorch_model.bin with transformers)"
                )
            local = stack.enter_context(_local(path / name))
            try:
                stored |= _leaves(local)
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path / name} is damaged ({error}); copy it again") from error
        yield stored


def read_json(path: epath.Path) -> dict:
    """A file of JSON. Raises ValueError where it is none."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def _leaves(file: str) -> dict[str, leaves.Leaf]:
    found = {}
    with safetensors.safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118, it is not a mapping
            tensor = tensors.get_slice(name)
            shape = tuple(tensor.get_shape())
            dtype = tensor[tuple(slice(0, 1) for _ in shape)].dtype  # an empty one reads all
            rows = max(1, LARGEST_CHUNK // max(1, math.prod(shape[1:]) * dtype.itemsize))
            found[name] = leaves.Leaf(
                shape, dtype, (rows, *shape[1:])[: len(shape)], _reader(file, name)
            )
    return found


def _reader(file: str, name: str):
    def read(box: leaves.Box) -> np.ndarray:
        # A file that stays open stays mapped, and what is read of it counts as memory of the process.
        with safetensors.safe_open(file, framework="numpy") as tensors:
            return tensors.get_slice(name)[box] if box else tensors.get_tensor(name)

    return read


@contextlib.contextmanager
def _local(path: epath.Path) -> Iterator[str]:
    """The file itself, or a copy while it is needed: safetensors maps local files only."""
    if "://" not in str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(path.copy(epath.Path(folder) / path.name))
