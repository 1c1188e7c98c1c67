"""Checkpoints in T5X's own format ("T5X native"): a msgpack index and zarr arrays.

The file `checkpoint` holds {version, optimizer: {target, state}}. A leaf of the
target is an array, or a TensorStore spec that names a zarr folder beside the file.
The spec's driver and bucket tell where the array was once written; it is read from
where it lies now.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import tensorstore
from etils import epath
from flax import serialization

from prompt_tuning import params
from prompt_tuning.checkpoints import leaves

OLDEST_VERSION, VERSION = 2, 3
# A checkpoint of the paper authors' code holds its prompt; ours comes from a prompt file.
IGNORED = ("encoder/prompt/", "decoder/prompt/")


def is_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is a folder with a file `checkpoint`."""
    return (epath.Path(path) / "checkpoint").exists()


def read_step(path: epath.PathLike) -> int:
    """The step that the checkpoint was written at."""
    path = epath.Path(path)
    return int(_read_index(path)["state"]["step"])


def load(path: epath.PathLike, abstract: params.Tree) -> dict:
    """Reads the weights that `abstract` lists, in its dtypes.

    Args:
      path: the folder `checkpoint_<step>`.
      abstract: nested dicts of jax.ShapeDtypeStruct.

    Returns:
      Nested dicts of numpy arrays.

    Raises:
      ValueError: weights are missing, surplus, of another shape, or a file is damaged.
    """
    path = epath.Path(path)
    found = {
        name: _leaf(path, value)
        for name, value in _flatten(_read_index(path)["target"])
        if not name.startswith(IGNORED)
    }
    return leaves.read(found, abstract, str(path))


def save(path: epath.PathLike, stored: Mapping[str, leaves.Leaf], *, step: int, dtype: str) -> None:
    """Writes a checkpoint that T5X reads, without an optimizer's state; whole or not at all.

    Args:
      path: the folder to make, named checkpoint_<step>.
      stored: {path: leaf} of the model's parameters.
      step: pre-training steps so far.
      dtype: of the stored weights.

    Raises:
      FileExistsError: `path` exists.
    """
    path = epath.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it or export to another folder")
    temporary = path.parent / f"{path.name}.tmp"
    if temporary.exists():
        temporary.rmtree()
    temporary.mkdir(parents=True)
    target = {}
    for name, leaf in stored.items():
        array = np.asarray(leaf.read(), jnp.dtype(dtype))
        metadata = {"shape": list(array.shape), "chunks": list(array.shape)}
        metadata |= {"dtype": "bfloat16" if dtype == "bfloat16" else array.dtype.str}
        metadata |= {"compressor": {"id": "gzip", "level": 1}}
        file = f"target.{name.replace('/', '.')}"
        place = {"driver": "zarr", "kvstore": _place(temporary, file), "metadata": metadata}
        tensorstore.open(place, create=True).result().write(array).result()
        beside = {"driver": "file", "path": file}
        target[name] = {"driver": "zarr", "dtype": dtype, "kvstore": beside, "metadata": metadata}
    state = {"step": np.asarray(step, np.int32), "param_states": {}}
    optimizer = {"target": params.unflatten(target), "state": state}
    index = serialization.msgpack_serialize({"version": VERSION, "optimizer": optimizer})
    (temporary / "checkpoint").write_bytes(index)
    temporary.rename(path)


def _read_index(path: epath.Path) -> dict:
    file = path / "checkpoint"
    try:
        index = serialization.msgpack_restore(file.read_bytes())
        version, optimizer = index["version"], index["optimizer"]
        optimizer["target"], optimizer["state"]["step"]
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(
            f"{file} is not a T5X checkpoint or is damaged ({error!r}); copy it again or choose "
            "another INITIAL_CHECKPOINT_PATH"
        ) from error
    if version < OLDEST_VERSION:
        raise ValueError(f"{file} has version {version}; {OLDEST_VERSION} and later can be read")
    return optimizer


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and "driver" in value and "kvstore" in value


def _flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and not _is_spec(value):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _leaf(path: epath.Path, value: Any) -> leaves.Leaf:
    if not _is_spec(value):
        return leaves.of_array(np.asarray(value))
    shape = tuple(value["metadata"]["shape"])
    spec = {
        "driver": "zarr",
        "kvstore": _place(path, value["kvstore"]["path"]),
        "fill_missing_data_reads": False,  # a lost file is an error, not zeros
    }

    def read() -> np.ndarray:
        try:
            return tensorstore.open(spec).result().read().result()
        except ValueError as error:
            raise ValueError(
                f"the checkpoint {path} is damaged or incomplete: {error}; copy it again"
            ) from error

    return leaves.Leaf(shape, read)


def _place(path: epath.Path, relative: str) -> dict[str, str]:
    """TensorStore's name for a folder beside the index."""
    name = relative.rstrip("/")
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(
            f"the index of {path} points out of its folder ({relative!r}); use another copy of it"
        )
    location = str(path / name)
    if not location.startswith("gs://"):
        return {"driver": "file", "path": location + "/"}
    bucket, _, inside = location.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": inside + "/"}
