"""Digest of a model's weights: the same for the same weights in any folder, format and float dtype."""

import concurrent.futures
import hashlib
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from prompt_tuning import params
from prompt_tuning.checkpoints import lazy_arrays

SAMPLE = 64  # values along each axis of a parameter


def digest_weights(stored: Mapping[str, lazy_arrays.LazyArray], abstract: params.Tree) -> str:
    """Returns the digest of the weights that `abstract` lists.

    It covers paths, shapes, and values at the beginning of each parameter: of those in layers only
    the first and the last layer of each stack, as reading all would take as long as loading. Values
    are rounded to bfloat16, so that a model and its bfloat16 copy, which a prompt fits equally, have
    the same digest; a float16 copy, which rounds otherwise, has not.

    Args:
      stored: {path: LazyArray}, one for each layer.
      abstract: nested dicts of jax.ShapeDtypeStruct, whose dtypes do not matter.
    """
    shapes = params.flatten(abstract)
    total = hashlib.sha256()
    for path, leaf in shapes.items():
        total.update(f"{path} {tuple(leaf.shape)}\n".encode())
    sampled = [path for path in _outer_layers(shapes) if path in stored]
    with concurrent.futures.ThreadPoolExecutor(lazy_arrays.READERS) as pool:
        for values in pool.map(lambda path: _sample(stored[path]), sampled):
            total.update(values)
    return f"weights-{total.hexdigest()[:16]}"


def is_comparable(digest: str | None) -> bool:
    """Whether a card's digest is of weights; those of earlier versions were of the folder's name."""
    return digest is not None and re.fullmatch("[0-9a-f]{16}", digest) is None


def _outer_layers(shapes: Mapping[str, object]) -> list[str]:
    """Paths outside of layers, and of the first and last layer of each stack."""
    layers = {path: re.fullmatch(r"(.*/layers_)(\d+)/.*", path) for path in shapes}
    last: dict[str, int] = {}
    for match in filter(None, layers.values()):
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return [
        path
        for path, match in layers.items()
        if match is None or int(match[2]) in (0, last[match[1]])
    ]


def _sample(leaf: lazy_arrays.LazyArray) -> bytes:
    values = leaf.read(tuple(slice(0, min(SAMPLE, size)) for size in leaf.shape))
    return np.asarray(values).astype(np.float32).astype(jnp.bfloat16).tobytes()
