"""Arrays of a stored checkpoint: checked against the model, then read chunk by chunk and put on the devices.

Memory beyond the result is a chunk or two per reader: an array is filled chunk by chunk in the requested
dtype, and is on its devices before its reader starts the next array.
"""

import concurrent.futures
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import params

READERS = 4
MAX_LAYERS = 1024
# One slice per dimension, with start and stop.
Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """A stored array whose values are read on demand.

    Attributes:
      shape: shape of the array.
      dtype: the stored dtype.
      chunk: shape of the chunks in which the array is read.
      read: returns the values at an index.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    read: Callable[[Index], np.ndarray]


def from_numpy(array: np.ndarray) -> LazyArray:
    """Returns an array in memory as a LazyArray of one chunk."""
    return LazyArray(array.shape, array.dtype, array.shape, lambda index: array[index])


def chunk_indices(array: LazyArray, index: Index | None = None) -> Iterator[Index]:
    """Yields the indices of the chunks of an array, cut to `index`."""
    index = _full_index(array.shape) if index is None else index
    axes = [
        [
            slice(max(start, side.start), min(start + step, side.stop))
            for start in range(side.start - side.start % max(step, 1), side.stop, max(step, 1))
        ]
        for side, step in zip(index, array.chunk, strict=True)
    ]
    yield from itertools.product(*axes)


def read(stored: LazyArray, dtype: Any = None) -> np.ndarray:
    """Reads all values, in `dtype` or as stored. Raises ValueError if a chunk is missing."""
    # The shape comes from an untrusted file: no memory is allocated unless the last chunk exists.
    sides = zip(stored.shape, stored.chunk, strict=True)
    stored.read(tuple(_last_chunk(size, step) for size, step in sides))
    array = np.empty(stored.shape, stored.dtype if dtype is None else dtype)
    for index in chunk_indices(stored):
        array[index] = stored.read(index)
    return array


def _last_chunk(size: int, step: int) -> slice:
    """Returns the last chunk along an axis."""
    return slice((max(size, 1) - 1) // max(step, 1) * max(step, 1), size)


def split_layers(stored: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
    """Returns the arrays with scanned layers split into one array per layer; see `load`."""
    return {
        path: array if layer is None else _layer_of(array, layer)
        for name, array in stored.items()
        for path, layer in _layers(name, array).items()
    }


def _layer_of(array: LazyArray, layer: int) -> LazyArray:
    def read_layer(index: Index) -> np.ndarray:
        return array.read((*index[:1], slice(layer, layer + 1), *index[1:]))[:, 0]

    shape, chunk = (_without_layers(sides, layer) for sides in (array.shape, array.chunk))
    return LazyArray(shape, array.dtype, chunk, read_layer)


def load(
    stored: Mapping[str, LazyArray],
    abstract: params.Tree,
    source: str,
    shardings: params.Tree | None = None,
) -> dict:
    """Reads exactly the arrays of `abstract`, in its dtypes, straight to their devices.

    A checkpoint with scanned layers stores a weight of all layers in one array, with the layers along
    axis 1; each chunk of it is read once. A prompt in the checkpoint is ignored.

    Args:
      stored: {path: LazyArray} of all parameters of the model in the checkpoint.
      abstract: nested dicts of jax.ShapeDtypeStruct.
      source: path of the checkpoint, for error messages.
      shardings: the sharding of each array of `abstract`; None for numpy arrays.

    Returns:
      Nested dicts of jax arrays on their devices, or of numpy arrays. A process reads only what its
      own devices hold.

    Raises:
      ValueError: weights are missing, unexpected or of another shape (the message lists all), are
        not floats, or cannot be read.
    """
    layers = {
        name: _layers(name, array) for name, array in stored.items() if "/prompt/" not in name
    }
    _check(stored, layers, abstract, source)
    expected = params.flatten(abstract)
    flat = dict.fromkeys(expected) if shardings is None else params.flatten(shardings)

    def load_one(name: str) -> dict[str, Any]:
        paths = layers[name]
        return _load_array(stored[name], paths, expected[next(iter(paths))], flat)

    # The largest first: the copy on the host is largest while little else is in memory.
    names = sorted(layers, key=lambda name: -math.prod(stored[name].shape))
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        arrays = {
            path: array for loaded in pool.map(load_one, names) for path, array in loaded.items()
        }
    return params.unflatten({path: arrays[path] for path in expected})


def _layers(name: str, array: LazyArray) -> dict[str, int | None]:
    """Returns {parameter path: index along axis 1} for scanned layers, else {name: None}."""
    scanned = re.fullmatch(r"(encoder|decoder)/\1/(.+)", name)
    if scanned is None or len(array.shape) < 2 or array.shape[1] > MAX_LAYERS:
        return {name: None}
    stack, rest = scanned.groups()
    return {f"{stack}/layers_{i}/{rest}": i for i in range(array.shape[1])}


def _check(
    stored: Mapping[str, LazyArray],
    layers: Mapping[str, Mapping[str, int | None]],
    abstract: params.Tree,
    source: str,
) -> None:
    shapes = {
        path: jax.ShapeDtypeStruct(_without_layers(stored[name].shape, layer), stored[name].dtype)
        for name, paths in layers.items()
        for path, layer in paths.items()
    }
    if lines := params.mismatches(shapes, abstract):
        raise ValueError(
            f"the checkpoint {source} does not match the model:\n  " + "\n  ".join(lines) + "\n"
            "Expected INITIAL_CHECKPOINT_PATH and the model's gin file of the same model. Change one of them."
        )
    for path, shape in shapes.items():
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            raise ValueError(
                f"{source}: {path} is {shape.dtype} {shape.shape}; expected floats. Copy the "
                "checkpoint again."
            )


def _without_layers(sides: tuple, layer: int | None) -> tuple:
    """Returns the shape or index of one layer from that of all layers."""
    return sides if layer is None else sides[:1] + sides[2:]


def _load_array(
    stored: LazyArray,
    paths: Mapping[str, int | None],
    expected: jax.ShapeDtypeStruct,
    shardings: Mapping[str, jax.sharding.Sharding | None],
) -> dict[str, Any]:
    """Returns {path: array} of a stored array: one weight, or one weight per layer."""
    local = _local_index(expected.shape, shardings[next(iter(paths))])
    shape = tuple(side.stop - side.start for side in local)
    arrays = {path: np.empty(shape, expected.dtype) for path in paths}
    stored_index = local
    if None not in paths.values():
        stored_index = (*local[:1], slice(0, stored.shape[1]), *local[1:])
    for index in chunk_indices(stored, stored_index):
        values = stored.read(index)
        for path, layer in paths.items():
            target = _relative(_without_layers(index, layer), local)
            if layer is None:
                arrays[path][target] = values
            elif index[1].start <= layer < index[1].stop:
                arrays[path][target] = values[:, layer - index[1].start]
        del values
    return {
        path: _to_devices(array, local, expected.shape, shardings[path])
        for path, array in arrays.items()
    }


def _full_index(shape: tuple[int, ...]) -> Index:
    return tuple(slice(0, size) for size in shape)


def _local_index(shape: tuple[int, ...], sharding: jax.sharding.Sharding | None) -> Index:
    """Returns the smallest index that covers the shards of this process."""
    full = _full_index(shape)
    if sharding is None:
        return full
    shards = [
        _relative(index, full) for index in sharding.addressable_devices_indices_map(shape).values()
    ]
    return tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*shards, strict=True)
    )


def _relative(index: Index, outer: Index) -> Index:
    """Returns an index relative to the start of an enclosing one."""
    return tuple(
        slice(side.indices(o.stop)[0] - o.start, side.indices(o.stop)[1] - o.start)
        for side, o in zip(index, outer, strict=True)
    )


def _to_devices(
    array: np.ndarray, local: Index, shape: tuple[int, ...], sharding: jax.sharding.Sharding | None
) -> Any:
    if sharding is None:
        return array
    sharded = jax.make_array_from_callback(
        shape, sharding, lambda index: array[_relative(index, local)]
    )
    return jax.block_until_ready(sharded)
