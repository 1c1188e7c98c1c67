"""Leaves of a stored checkpoint: checked against the model first, read afterwards."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from prompt_tuning import params

READERS = 8


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A stored array whose shape is known and whose values are not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def of_array(array: np.ndarray) -> Leaf:
    """A leaf that is in memory already."""
    return Leaf(array.shape, lambda: array)


def read(leaves: Mapping[str, Leaf], abstract: params.Tree, source: str) -> dict:
    """Reads exactly the leaves of `abstract`, in its dtypes.

    Args:
      leaves: {path: leaf} of everything in the checkpoint that belongs to the model.
      abstract: nested dicts of jax.ShapeDtypeStruct.
      source: where the checkpoint lies, for the error.

    Returns:
      Nested dicts of numpy arrays.

    Raises:
      ValueError: names all weights that are missing, surplus or of another shape; or a
        stored array is not what the checkpoint's index says.
    """
    if lines := params.mismatches(params.unflatten(leaves), abstract):
        raise ValueError(
            f"the checkpoint {source} does not fit the model:\n  " + "\n  ".join(lines) + "\n"
            "INITIAL_CHECKPOINT_PATH and the model's gin file must name the same model"
        )
    wanted = params.flatten(abstract)

    def one(path: str) -> np.ndarray:
        array = leaves[path].read()
        if array.shape != leaves[path].shape or not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{source}: {path} holds {array.dtype} {array.shape}, expected floats "
                f"{leaves[path].shape}; copy the checkpoint again"
            )
        return np.asarray(array, wanted[path].dtype, order="C")

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        return params.unflatten(dict(zip(wanted, pool.map(one, wanted), strict=True)))
