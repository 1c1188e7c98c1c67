"""Whether two checkpoints hold the same model, whatever their formats."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from prompt_tuning.checkpoints import base_model, lazy_arrays


def compare(
    first: epath.PathLike,
    second: epath.PathLike,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    check: Sequence[str] = (),
    with_step: bool = False,
) -> dict[str, Any]:
    """Compares the parameters of two checkpoints, in float32 and within numpy's closeness.

    Scanned layers are compared layer by layer, under the names that they have unscanned.

    Args:
      first: a checkpoint of any format.
      second: another.
      fraction: of the parameters that both have, how many are compared: in (0, 1], drawn at random.
      seed: of the draw.
      check: patterns (`encoder/layers_0/*`) of parameters that are compared whatever is drawn.
      with_step: whether the steps must be the same too.

    Returns:
      {"same": whether nothing differs, "compared": how many parameters, "different": {path: the
      largest absolute difference, or a text: "not finite", or the shapes}, "only_first", "only_second": paths,
      "steps": of both}.

    Raises:
      ValueError: a pattern that matches nothing, or one that `load` would raise.
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            f"fraction={fraction} is out of range; expected a number greater than 0 and at most 1. "
            "Set fraction to such a number."
        )
    with base_model.opened(first) as left, base_model.opened(second) as right:
        one, other = lazy_arrays.split_layers(left), lazy_arrays.split_layers(right)
        shared = sorted(one.keys() & other.keys())
        idle = [pattern for pattern in check if not fnmatch.filter(shared, pattern)]
        if idle:
            raise ValueError(
                f"{idle} match no parameter that both checkpoints have; expected patterns of names "
                f"such as {', '.join(shared[:8])}. Correct the patterns."
            )
        count = round(fraction * len(shared)) or min(1, len(shared))
        drawn = set(np.random.default_rng(seed).permutation(shared)[:count].tolist())
        drawn |= {name for pattern in check for name in fnmatch.filter(shared, pattern)}
        differences = {name: _difference(one[name], other[name]) for name in sorted(drawn)}
        result = {
            "compared": len(drawn),
            "different": {name: what for name, what in differences.items() if what is not None},
            "only_first": sorted(one.keys() - other.keys()),
            "only_second": sorted(other.keys() - one.keys()),
            "steps": [base_model.read_step(first), base_model.read_step(second)],
        }
    steps_differ = with_step and len(set(result["steps"])) > 1
    lists = ("different", "only_first", "only_second")
    return {"same": not (steps_differ or any(result[each] for each in lists)), **result}


def _difference(one: lazy_arrays.LazyArray, other: lazy_arrays.LazyArray) -> float | str | None:
    """None where two arrays are close; the largest difference, or what their shapes are."""
    if one.shape != other.shape:
        return f"{one.shape} and {other.shape}"
    largest, close = 0.0, True
    for box in lazy_arrays.chunk_indices(one):
        left, right = (each.read(box).astype(np.float32) for each in (one, other))
        if not np.allclose(left, right, equal_nan=True):
            close = False
            if not (np.isfinite(left).all() and np.isfinite(right).all()):
                return "not finite"
            largest = max(largest, float(np.max(np.abs(left - right))))
    return None if close else largest
