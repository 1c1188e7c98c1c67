"""Leaves of a stored checkpoint: checked against the model, then read and placed one by one.

What is not final is a chunk or two for each reader: an array is filled chunk by chunk in the
dtype asked, and is on its devices before the next is read.
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
MOST_LAYERS = 1024
# Slices with start and stop, one a dimension.
Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A stored array whose values are not read yet.

    Attributes:
      shape: of the array.
      dtype: as stored.
      chunk: shape of the pieces that it is read in.
      read: box of the array -> its values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    read: Callable[[Box], np.ndarray]


def of_array(array: np.ndarray) -> Leaf:
    """A leaf of what is in memory."""
    return Leaf(array.shape, array.dtype, array.shape, lambda box: array[box])


def boxes(leaf: Leaf, box: Box | None = None) -> Iterator[Box]:
    """The pieces of a leaf, or of a box of it, in its chunks."""
    box = tuple(slice(0, size) for size in leaf.shape) if box is None else box
    axes = [
        [
            slice(max(start, side.start), min(start + step, side.stop))
            for start in range(side.start - side.start % max(step, 1), side.stop, max(step, 1))
        ]
        for side, step in zip(box, leaf.chunk, strict=True)
    ]
    yield from itertools.product(*axes)


def read(leaf: Leaf, dtype: Any = None) -> np.ndarray:
    """The whole array, in the dtype asked or as stored. Raises ValueError where a part is not there."""
    # A shape is a file's word: where its last piece is not there, no memory is asked for.
    leaf.read(tuple(_last(size, step) for size, step in zip(leaf.shape, leaf.chunk, strict=True)))
    array = np.empty(leaf.shape, leaf.dtype if dtype is None else dtype)
    for box in boxes(leaf):
        array[box] = leaf.read(box)
    return array


def _last(size: int, step: int) -> slice:
    """Where the last piece along an axis lies."""
    return slice((max(size, 1) - 1) // max(step, 1) * max(step, 1), size)


def by_layer(stored: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The same with a leaf for each layer, where layers are scanned; see `load`."""
    return {
        path: leaf if layer is None else _of_layer(leaf, layer)
        for name, leaf in stored.items()
        for path, layer in _layers(name, leaf).items()
    }


def _of_layer(leaf: Leaf, layer: int) -> Leaf:
    def read(box: Box) -> np.ndarray:
        return leaf.read((*box[:1], slice(layer, layer + 1), *box[1:]))[:, 0]

    shape, chunk = (_without_layers(sides, layer) for sides in (leaf.shape, leaf.chunk))
    return Leaf(shape, leaf.dtype, chunk, read)


def load(
    stored: Mapping[str, Leaf],
    abstract: params.Tree,
    source: str,
    shardings: params.Tree | None = None,
) -> dict:
    """Reads exactly the leaves of `abstract`, in its dtypes, straight to their devices.

    A checkpoint of scanned layers holds a weight of all layers in one array, the layers along
    axis 1: it is read once and told apart. A prompt in the checkpoint is left out: a prompt
    comes from a prompt file.

    Args:
      stored: {path: leaf} of everything in the checkpoint that belongs to the model.
      abstract: nested dicts of jax.ShapeDtypeStruct.
      source: where the checkpoint lies, for the error.
      shardings: where each leaf of `abstract` goes; None for numpy arrays.

    Returns:
      Nested dicts of jax arrays on their devices, or of numpy arrays. A process reads only
      what its own devices hold.

    Raises:
      ValueError: names all weights that are missing, surplus or of another shape; or an array
        is not of floats or cannot be read.
    """
    layers = {name: _layers(name, leaf) for name, leaf in stored.items() if "/prompt/" not in name}
    _check(stored, layers, abstract, source)
    wanted = params.flatten(abstract)
    places = {path: None for path in wanted} if shardings is None else params.flatten(shardings)

    def one(name: str) -> dict[str, Any]:
        paths = layers[name]
        return _load(stored[name], paths, wanted[next(iter(paths))], places)

    # The largest first: what is in memory beside its result is in memory while there is little else.
    names = sorted(layers, key=lambda name: -math.prod(stored[name].shape))
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        arrays = {path: array for part in pool.map(one, names) for path, array in part.items()}
    return params.unflatten({path: arrays[path] for path in wanted})


def _layers(name: str, leaf: Leaf) -> dict[str, int | None]:
    """{path of the model: index along axis 1} of a weight of all layers; {name: None} of another."""
    scanned = re.fullmatch(r"(encoder|decoder)/\1/(.+)", name)
    if scanned is None or len(leaf.shape) < 2 or leaf.shape[1] > MOST_LAYERS:
        return {name: None}
    stack, rest = scanned.groups()
    return {f"{stack}/layers_{i}/{rest}": i for i in range(leaf.shape[1])}


def _check(
    stored: Mapping[str, Leaf],
    layers: Mapping[str, Mapping[str, int | None]],
    abstract: params.Tree,
    source: str,
) -> None:
    found = {
        path: jax.ShapeDtypeStruct(_without_layers(stored[name].shape, layer), stored[name].dtype)
        for name, paths in layers.items()
        for path, layer in paths.items()
    }
    if lines := params.mismatches(found, abstract):
        raise ValueError(
            f"the checkpoint {source} does not match the model:\n  " + "\n  ".join(lines) + "\n"
            "Expected INITIAL_CHECKPOINT_PATH and the model's gin file of the same model. Change one of them."
        )
    for path, leaf in found.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{source}: {path} is {leaf.dtype} {leaf.shape}; expected floats. Copy the "
                "checkpoint again."
            )


def _without_layers(sides: tuple, layer: int | None) -> tuple:
    """Shape or box of a layer, from that of all layers."""
    return sides if layer is None else sides[:1] + sides[2:]


def _load(
    leaf: Leaf,
    paths: Mapping[str, int | None],
    wanted: jax.ShapeDtypeStruct,
    places: Mapping[str, jax.sharding.Sharding | None],
) -> dict[str, Any]:
    """{path: array} of what a stored array holds: a weight, or that of each layer."""
    own = _own_box(wanted.shape, places[next(iter(paths))])
    shape = tuple(side.stop - side.start for side in own)
    arrays = {path: np.empty(shape, wanted.dtype) for path in paths}
    whole = own
    if None not in paths.values():
        whole = (*own[:1], slice(0, leaf.shape[1]), *own[1:])
    for box in boxes(leaf, whole):
        values = leaf.read(box)
        for path, layer in paths.items():
            part = _relative(_without_layers(box, layer), own)
            if layer is None:
                arrays[path][part] = values
            elif box[1].start <= layer < box[1].stop:
                arrays[path][part] = values[:, layer - box[1].start]
        del values
    return {path: _place(array, own, wanted.shape, places[path]) for path, array in arrays.items()}


def _own_box(shape: tuple[int, ...], sharding: jax.sharding.Sharding | None) -> Box:
    """What the devices of this process hold of an array, as one box."""
    whole = tuple(slice(0, size) for size in shape)
    if sharding is None:
        return whole
    parts = [
        _relative(index, whole)
        for index in sharding.addressable_devices_indices_map(shape).values()
    ]
    return tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*parts, strict=True)
    )


def _relative(box: Box, outer: Box) -> Box:
    """The same box, counted from the corner of one around it."""
    return tuple(
        slice(side.indices(o.stop)[0] - o.start, side.indices(o.stop)[1] - o.start)
        for side, o in zip(box, outer, strict=True)
    )


def _place(
    array: np.ndarray, own: Box, shape: tuple[int, ...], sharding: jax.sharding.Sharding | None
) -> Any:
    if sharding is None:
        return array
    placed = jax.make_array_from_callback(
        shape, sharding, lambda index: array[_relative(index, own)]
    )
    return jax.block_until_ready(placed)
