"""Arrays in the format zarr, through TensorStore, on disk and on gs://."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore
from etils import epath

from prompt_tuning.checkpoints import lazy_arrays

ARRAY_FILE = ".zarray"
LARGEST_CHUNK = 2**26  # bytes: T5X's
# T5X has gzip, Orbax zstd. TensorStore unpacks no more than the array has; of Blosc, 4 MB became 1 GiB.
COMPRESSORS = ("gzip", "zlib", "zstd", None)
Json = dict[str, Any]


def kvstore(path: epath.PathLike) -> Json:
    """TensorStore's name for a folder."""
    location = f"{path}".rstrip("/") + "/"
    if not location.startswith("gs://"):
        return {"driver": "file", "path": location}
    bucket, _, inside = location.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": inside}


def open_leaves(
    kvstores: Mapping[str, Json], source: epath.PathLike
) -> dict[str, lazy_arrays.LazyArray]:
    """{path: folder of an array} -> {path: LazyArray}; shapes are read now, values later.

    Raises:
      ValueError: `source` lacks a file of an array, or it is damaged, or not packed with one of COMPRESSORS.
    """
    try:
        # All at once: on gs:// each takes a while.
        futures = {name: tensorstore.open(_spec(folder)) for name, folder in kvstores.items()}
        stores = {name: future.result() for name, future in futures.items()}
        opened = {name: _leaf(store, source) for name, store in stores.items()}
    except ValueError as error:
        raise damaged(source, error) from error
    for name, store in stores.items():
        packed = (store.codec.to_json()["compressor"] or {}).get("id")
        if packed not in COMPRESSORS:
            raise ValueError(
                f"{name} of the checkpoint {source} is compressed with {packed}; expected "
                f"{', '.join(filter(None, COMPRESSORS))} or no compression. Save the checkpoint "
                "with one of these."
            )
    return opened


def write(folder: Json, leaf: lazy_arrays.LazyArray, dtype: np.dtype) -> Json:
    """Writes an array to a folder of its own, as `kvstore` names it, compressed.

    Returns:
      Its metadata: {"shape", "chunks", "dtype", "compressor"}.
    """
    dtype = np.dtype(dtype)
    parts = max(1, math.ceil(math.prod(leaf.shape) * dtype.itemsize / LARGEST_CHUNK))
    metadata = {
        "shape": list(leaf.shape),
        "chunks": [math.ceil(size / parts) for size in leaf.shape[:1]] + list(leaf.shape[1:]),
        "dtype": "bfloat16" if dtype.name == "bfloat16" else dtype.str,
        "compressor": {"id": "gzip", "level": 1},
    }
    spec = {"driver": "zarr", "kvstore": folder, "metadata": metadata}
    store = tensorstore.open(spec, create=True).result()
    aligned = lazy_arrays.LazyArray(leaf.shape, leaf.dtype, tuple(metadata["chunks"]), leaf.read)
    for box in lazy_arrays.chunk_indices(aligned):
        store[box].write(np.asarray(leaf.read(box), dtype)).result()
    return metadata


def _spec(folder: Json) -> Json:
    # A lost file is an error, not zeros.
    return {"driver": "zarr", "kvstore": folder, "fill_missing_data_reads": False}


def _leaf(store: tensorstore.TensorStore, source: epath.PathLike) -> lazy_arrays.LazyArray:
    def read(box: lazy_arrays.Index) -> np.ndarray:
        try:
            return store[box].read().result()
        except ValueError as error:
            raise damaged(source, error) from error

    shape = tuple(store.shape)
    chunk = tuple(store.chunk_layout.read_chunk.shape or ())  # None for a scalar
    if math.prod(chunk) > max(1, math.prod(shape)):
        # It would be unpacked whole: an array's own size bounds what reading it takes.
        raise ValueError(f"an array of shape {shape} in larger chunks of {chunk}")
    return lazy_arrays.LazyArray(shape, store.dtype.numpy_dtype, chunk, read)


def damaged(source: epath.PathLike, error: Exception) -> ValueError:
    """The error for a checkpoint of which TensorStore cannot read a part."""
    return ValueError(
        f"the checkpoint {source} is damaged or incomplete ({error}); expected complete arrays. "
        "Copy it again."
    )
