"""Checkpoints that T5X wrote through Orbax: zarr arrays in one OCDBT database.

`checkpoint_<step>/state` is the database. An array is named by its path with dots:
`target.encoder.encoder_norm.scale`; the optimizer's lie beside under `state.`, and are not read.
What Orbax has written to the end carries a marker.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import tensorstore
from etils import epath

from prompt_tuning.checkpoints import lazy_arrays
from prompt_tuning.checkpoints.formats import zarr

DATABASE, METADATA, MARKER = "state", "_CHECKPOINT_METADATA", "commit_success.txt"
MANIFEST = "manifest.ocdbt"
TARGET, STEP = "target.", "state.step"


def is_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is a folder that Orbax wrote, whole or not."""
    return any((epath.Path(path) / name).exists() for name in (METADATA, MARKER, DATABASE))


def read_step(path: epath.PathLike) -> int:
    """The step that the checkpoint was written at."""
    if STEP not in names(path):
        raise _foreign(path)
    leaf = open_arrays(path, [STEP])[STEP]
    if leaf.shape or not np.issubdtype(leaf.dtype, np.integer):
        raise zarr.damaged(
            path, ValueError(f"{STEP} is {leaf.dtype} {leaf.shape}; expected an integer")
        )
    return int(lazy_arrays.read(leaf))


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[dict[str, lazy_arrays.LazyArray]]:
    """Yields {path: LazyArray} of the model's parameters, without the optimizer state."""
    targets = [name for name in names(path) if name.startswith(TARGET)]
    if not targets:
        raise _foreign(path)
    arrays = open_arrays(path, targets)
    yield {name.removeprefix(TARGET).replace(".", "/"): leaf for name, leaf in arrays.items()}


def open_arrays(path: epath.PathLike, wanted: Iterable[str]) -> dict[str, lazy_arrays.LazyArray]:
    """{dotted name: LazyArray} of arrays in the database."""
    return zarr.open_leaves({name: kvstore(path, name) for name in wanted}, path)


def kvstore(path: epath.PathLike, name: str | None = None) -> zarr.Json:
    """TensorStore's name for the database, or for an array in it."""
    base = zarr.kvstore(epath.Path(path) / DATABASE)
    return {"driver": "ocdbt", "base": base, **({} if name is None else {"path": f"{name}/"})}


def names(path: epath.PathLike) -> list[str]:
    """Dotted names of all arrays in the database.

    Raises:
      ValueError: the checkpoint is incomplete or damaged, or without OCDBT.
    """
    path = epath.Path(path)
    if not _is_whole(path):
        raise ValueError(
            f"{path} is incomplete: it has no {MARKER}, which Orbax writes last; expected a "
            "complete checkpoint. Choose an earlier checkpoint_<step>, or copy it again."
        )
    if not (path / DATABASE / MANIFEST).exists():
        raise ValueError(
            f"{path / DATABASE} has no {MANIFEST}; expected an Orbax checkpoint with OCDBT, as T5X "
            "writes it. Copy it again, or save it with use_ocdbt=True."
        )
    try:
        stored = tensorstore.KvStore.open(kvstore(path)).result().list().result()
        keys = [key.decode() for key in stored]
    except ValueError as error:
        raise zarr.damaged(path, error) from error
    suffix = f"/{zarr.ARRAY_FILE}"
    return sorted(key.removesuffix(suffix) for key in keys if key.endswith(suffix))


def _is_whole(path: epath.Path) -> bool:
    if (path / MARKER).exists():
        return True
    # Some versions of Orbax mark a complete checkpoint only in its metadata.
    try:
        metadata = json.loads((path / METADATA).read_text())
        return bool(metadata.get("commit_timestamp_nsecs"))
    except (OSError, RecursionError, ValueError, AttributeError):
        return False


def _foreign(path: epath.PathLike) -> ValueError:
    return ValueError(
        f"{path} is an Orbax checkpoint without a T5X model (no {TARGET}… and {STEP}); expected a "
        "model. Check INITIAL_CHECKPOINT_PATH; the state of a prompt-tuning run is exported with "
        "`prompt-tuning export`."
    )
