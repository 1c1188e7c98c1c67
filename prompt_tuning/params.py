"""Parameter trees: paths, split and merge, counts.

A tree is nested dicts of arrays, or of shapes. The path of a leaf is its keys joined by "/":
`encoder/layers_0/attention/query/kernel`. Freezing, loading, sharding and saving use these paths.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

Tree = Mapping[str, Any]
TRAINABLE, FROZEN = "trainable", "frozen"


def flatten(tree: Tree) -> dict[str, Any]:
    """Converts nested dicts to {path: leaf}, in the order of sorted keys."""
    flat = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping):
            flat |= {f"{key}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Converts {path: leaf} to nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def check_trainable(trainable: Sequence[str]) -> None:
    """Raises ValueError if `trainable` (TRAINABLE) is not a sequence of patterns."""
    if isinstance(trainable, str):
        raise ValueError(
            f"TRAINABLE is the string {trainable!r}; expected a sequence of patterns. Set "
            f"TRAINABLE to ({trainable!r},)."
        )
    if not trainable:
        raise ValueError(
            f"TRAINABLE is {trainable!r}; expected at least one pattern of parameter paths. Set "
            "TRAINABLE, for a prompt to ('.*/prompt/.*',)."
        )


def trainable_labels(tree: Tree, trainable: Sequence[str]) -> dict[str, Any]:
    """Labels each leaf "trainable" if its complete path matches a pattern, else "frozen".

    Args:
      tree: parameters, or a tree with their paths.
      trainable: regular expressions (TRAINABLE).

    Raises:
      ValueError: a pattern matches no leaf, or only leaves that earlier patterns match.
    """
    check_trainable(trainable)
    labels, used = {}, set()
    for path in flatten(tree):
        index = next((i for i, p in enumerate(trainable) if re.fullmatch(p, path)), None)
        used.add(index)
        labels[path] = FROZEN if index is None else TRAINABLE
    if unused := [pattern for i, pattern in enumerate(trainable) if i not in used]:
        raise ValueError(
            f"TRAINABLE has patterns {unused} that match no parameter, or only parameters that earlier "
            "patterns match; expected regular expressions of complete paths, such as "
            f"{list(labels)[:8]}. Correct or remove them."
        )
    return unflatten(labels)


def split(tree: Tree, trainable: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree into (trainable, frozen); raises as `trainable_labels`."""
    labels = flatten(trainable_labels(tree, trainable))
    flat = flatten(tree)
    halves = {
        label: unflatten({path: flat[path] for path in flat if labels[path] == label})
        for label in (TRAINABLE, FROZEN)
    }
    return halves[TRAINABLE], halves[FROZEN]


def merge(*trees: Tree) -> dict[str, Any]:
    """Merges trees into one. Raises ValueError if they overlap."""
    flat: dict[str, Any] = {}
    for tree in trees:
        leaves = flatten(tree)
        if overlap := flat.keys() & leaves.keys():
            raise ValueError(f"parameters are in two of the trees to merge: {sorted(overlap)}")
        flat |= leaves
    return unflatten(flat)


def shapes(tree: Tree) -> dict[str, Any]:
    """Returns the tree with jax.ShapeDtypeStruct leaves."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(tree))


def count(tree: Tree) -> int:
    """Returns the number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def size_in_bytes(tree: Tree) -> int:
    """Returns the size of all leaves in their dtypes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in flatten(tree).values())


def structure_digest(tree: Tree, source: str = "") -> str:
    """Returns a SHA-256 prefix of paths, shapes, dtypes and `source`, without the values."""
    lines = [f"{p} {tuple(x.shape)} {x.dtype}" for p, x in flatten(tree).items()]
    return hashlib.sha256("\n".join([*lines, source]).encode()).hexdigest()[:16]


def mismatches(tree: Tree, expected: Tree) -> list[str]:
    """Describes missing and surplus leaves of a tree, and leaves of another shape."""
    actual, expected_shapes = (
        {path: tuple(leaf.shape) for path, leaf in flatten(x).items()} for x in (tree, expected)
    )
    lines = [f"missing: {p} {s}" for p, s in expected_shapes.items() if p not in actual]
    lines += [f"surplus: {p} {s}" for p, s in actual.items() if p not in expected_shapes]
    for path in actual.keys() & expected_shapes.keys():
        if actual[path] != expected_shapes[path]:
            lines.append(f"shape: {path} is {actual[path]}, the model has {expected_shapes[path]}")
    return sorted(lines)
