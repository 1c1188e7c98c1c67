"""Checkpoints in T5X's own format ("T5X native"): a msgpack index and zarr arrays.

The file `checkpoint` holds {version, optimizer: {target, state}}. Every entry, the step
included, is an array, or a TensorStore spec that names a zarr folder beside the file.
The driver and bucket of a spec say where the array was written; it is read from the
folder of the index.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import serialization

from prompt_tuning import params
from prompt_tuning.checkpoints import atomic, lazy_arrays
from prompt_tuning.checkpoints.formats import weight_files, zarr

OLDEST_VERSION, VERSION = 2, 3


def is_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is a folder with a file `checkpoint`."""
    return (epath.Path(path) / "checkpoint").exists()


def read_step(path: epath.PathLike) -> int:
    """The step that the checkpoint was written at. Raises ValueError where it cannot be read."""
    path = epath.Path(path)
    leaf = _open_entries(path, {"step": _read_index(path)["state"]["step"]})["step"]
    try:
        step = int(lazy_arrays.read(leaf).item())
        if not 0 <= step < 2**31:
            raise ValueError(f"step {step}; expected 0 to 2**31 - 1")
    except (TypeError, ValueError) as error:
        raise _damaged(path / "checkpoint", error) from error
    return step


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[dict[str, lazy_arrays.LazyArray]]:
    """Yields {path: LazyArray} of the model's parameters, without the optimizer state."""
    path = epath.Path(path)
    yield _open_entries(path, dict(_flatten(_read_index(path)["target"])))


def save(
    path: epath.PathLike, stored: Mapping[str, lazy_arrays.LazyArray], *, step: int, dtype: str
) -> None:
    """Writes a checkpoint that T5X reads, without an optimizer's state; whole or not at all.

    Args:
      path: the folder to make, named checkpoint_<step>.
      stored: {path: LazyArray} of the model's parameters.
      step: pre-training steps so far.
      dtype: of the stored weights.

    Raises:
      FileExistsError: `path` exists.
    """
    target = {}
    with atomic.folder(path) as folder:
        for name, leaf in stored.items():
            file = f"target.{name.replace('/', '.')}"
            metadata = zarr.write(zarr.kvstore(folder / file), leaf, jnp.dtype(dtype))
            target[name] = {
                "driver": "zarr",
                "dtype": dtype,
                "kvstore": {"driver": "file", "path": file},
                "metadata": metadata,
            }
        state = {"step": np.asarray(step, np.int32), "param_states": {}}
        optimizer = {"target": params.unflatten(target), "state": state}
        index = {"version": VERSION, "optimizer": optimizer}
        (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


def _read_index(path: epath.Path) -> dict:
    file = path / "checkpoint"
    try:
        index = serialization.msgpack_restore(file.read_bytes())
        version, optimizer = int(index["version"]), index["optimizer"]
        optimizer["state"]["step"]
        dict(_flatten(optimizer["target"]))
    except Exception as error:  # Of msgpack, of Flax, of numpy: whatever their parsers come upon.
        raise _damaged(file, error) from error
    if version < OLDEST_VERSION:
        raise ValueError(
            f"{file} has version {version}; expected version {OLDEST_VERSION} or later. Save the "
            "checkpoint again with a later T5X."
        )
    return optimizer


def _damaged(file: epath.Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} is not a T5X checkpoint or is damaged ({weight_files.shown(error)}); expected "
        "T5X's msgpack index. Copy it again, or choose another INITIAL_CHECKPOINT_PATH."
    )


def _open_entries(path: epath.Path, entries: Mapping[str, Any]) -> dict[str, lazy_arrays.LazyArray]:
    """{name: LazyArray} of {name: entry of the index}, an array or the spec of one beside the index."""
    specs = {name: value for name, value in entries.items() if _is_spec(value)}
    inline = {
        name: lazy_arrays.from_numpy(np.asarray(value))
        for name, value in entries.items()
        if name not in specs
    }
    kvstores = {name: _kvstore(path, name, spec) for name, spec in specs.items()}
    return inline | zarr.open_leaves(kvstores, path)


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and "driver" in value and "kvstore" in value


def _flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and not _is_spec(value):
            yield from _flatten(value, f"{prefix}{key}/")
        elif _is_spec(value) or isinstance(value, np.ndarray | np.generic):
            yield prefix + key, value
        else:
            raise TypeError(
                f"{prefix}{key} is {weight_files.shown(value)}; expected an array or its spec"
            )


def _kvstore(path: epath.Path, name: str, spec: Mapping[str, Any]) -> zarr.Json:
    """TensorStore's name for the folder of an array beside the index."""
    if spec["driver"] != "zarr":
        raise ValueError(
            f"{name} of {path} is stored with the TensorStore driver "
            f"{weight_files.shown(spec['driver'])}; expected 'zarr', as T5X writes. Save the "
            "checkpoint with T5X."
        )
    kvstore = spec["kvstore"]
    # TensorStore before 0.1.14 wrote the path beside the kvstore.
    relative = {**spec, **kvstore}.get("path") if isinstance(kvstore, dict) else None
    folder = relative.rstrip("/") if isinstance(relative, str) else ""
    if folder in ("", ".", "..") or "/" in folder:
        raise ValueError(
            f"the index of {path} refers to a path outside its folder ({relative!r}); expected a "
            "folder name. Use another copy of the checkpoint."
        )
    return zarr.kvstore(path / folder)
