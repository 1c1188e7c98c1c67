"""Parameter trees: paths, patterns, split and merge, counts.

A tree is nested dicts of arrays (or of shapes). The path of a leaf is its keys
joined by "/": `encoder/layers_0/attention/query/kernel`. Freezing, loading,
sharding and saving all speak in these paths.
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
    """Nested dicts -> {path: leaf}, in the order of sorted keys."""
    flat = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping):
            flat |= {f"{key}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} -> nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def label(tree: Tree, table: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Gives each leaf the label of the first pattern that matches its whole path.

    Args:
      tree: parameters, or anything with their paths.
      table: (regular expression, label) pairs; order matters.

    Returns:
      The tree with labels for leaves.

    Raises:
      ValueError: a leaf that no pattern covers, or a pattern that wins no leaf.
    """
    labels, used = {}, set()
    for path in flatten(tree):
        row = next((i for i, (p, _) in enumerate(table) if re.fullmatch(p, path)), None)
        if row is None:
            raise ValueError(
                f"parameter {path!r} matches no pattern of {table}; expected a label for each "
                "parameter. Add a pattern that matches it."
            )
        used.add(row)
        labels[path] = table[row][1]
    idle = [pattern for i, (pattern, _) in enumerate(table) if i not in used]
    if idle:
        raise ValueError(
            f"TRAINABLE has patterns {idle} that match no parameter, or none that earlier patterns do "
            f"not match; expected regular expressions of complete paths, such as {list(labels)[:8]}. "
            "Correct or remove them."
        )
    return unflatten(labels)


def check_trainable(trainable: Sequence[str]) -> None:
    """Raises ValueError where `trainable` (TRAINABLE) is not a sequence of patterns."""
    if isinstance(trainable, str):
        raise ValueError(
            f"TRAINABLE is the string {trainable!r}; expected a sequence of patterns. Set "
            f"TRAINABLE to ({trainable!r},)."
        )
    if not trainable:
        raise ValueError(
            f"TRAINABLE is {trainable!r}; expected one pattern of parameter paths or more. Set TRAINABLE, "
            "for a prompt to ('.*/prompt/.*',)"
        )


def trainable_labels(tree: Tree, trainable: Sequence[str]) -> dict[str, Any]:
    """Labels "trainable" and "frozen": what matches a pattern of `trainable` is trained."""
    check_trainable(trainable)
    table = [(pattern, TRAINABLE) for pattern in trainable]
    covered = all(any(re.fullmatch(p, path) for p in trainable) for path in flatten(tree))
    return label(tree, table if covered else [*table, (".*", FROZEN)])


def split(tree: Tree, trainable: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree into (trainable, frozen), each with only its own leaves."""
    labels = flatten(trainable_labels(tree, trainable))
    flat = flatten(tree)
    halves = {
        kind: unflatten({path: flat[path] for path in flat if labels[path] == kind})
        for kind in (TRAINABLE, FROZEN)
    }
    return halves[TRAINABLE], halves[FROZEN]


def merge(*trees: Tree) -> dict[str, Any]:
    """Puts split trees together again. Raises ValueError where they overlap."""
    flat: dict[str, Any] = {}
    for tree in trees:
        part = flatten(tree)
        if overlap := flat.keys() & part.keys():
            raise ValueError(f"parameters are in two of the trees to merge: {sorted(overlap)}")
        flat |= part
    return unflatten(flat)


def shapes(tree: Tree) -> dict[str, Any]:
    """The same tree with jax.ShapeDtypeStruct leaves."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(tree))


def count(tree: Tree) -> int:
    """How many numbers the tree holds."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def size_in_bytes(tree: Tree) -> int:
    """Bytes of all leaves in their dtypes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in flatten(tree).values())


def structure_digest(tree: Tree, source: str = "") -> str:
    """Identity of a tree without its values: SHA-256 over paths, shapes, dtypes and `source`."""
    lines = [f"{p} {tuple(x.shape)} {x.dtype}" for p, x in flatten(tree).items()]
    return hashlib.sha256("\n".join([*lines, source]).encode()).hexdigest()[:16]


def mismatches(found: Tree, expected: Tree) -> list[str]:
    """Describes every missing, surplus and wrongly shaped leaf of `found`."""
    found, expected = flatten(found), flatten(expected)
    lines = [f"missing: {p} {tuple(expected[p].shape)}" for p in expected if p not in found]
    lines += [f"surplus: {p} {tuple(found[p].shape)}" for p in found if p not in expected]
    for path in expected.keys() & found.keys():
        have, want = tuple(found[path].shape), tuple(expected[path].shape)
        if have != want:
            lines.append(f"shape: {path} is {have}, the model has {want}")
    return sorted(lines)
