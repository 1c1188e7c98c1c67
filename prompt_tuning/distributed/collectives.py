"""The collectives of a compiled program: what its devices exchange, read from XLA's text of it."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from prompt_tuning.distributed import partitioning

Shape = tuple[int, ...]

_COLLECTIVE = re.compile(
    r" = (?P<result>\(.*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute|collective-broadcast)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_CALLED = re.compile(r"\b(?:body|calls|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.-]+)")
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class HloArray(NamedTuple):
    """An array as XLA writes it: f32[4,612,1024]."""

    dtype: str
    shape: Shape

    @property
    def bytes(self) -> int:
        """Its size."""
        bits = 8 if self.dtype == "pred" else int(re.search(r"\d+", self.dtype)[0])
        return math.prod(self.shape) * bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between the devices of a group.

    Attributes:
      kind: "all-reduce", "all-gather", ...
      axis: of the mesh that the group lies along: "data", "model" or "data+model".
      arrays: each whole on one device: what is reduced or sent, or what a gather gives.
      times: it happens in one run of the program. In a loop whose length the compiler
        does not know, once.
      source: the operation of the JAX program that it comes from.
    """

    kind: str
    axis: str
    arrays: tuple[HloArray, ...]
    times: int
    source: str

    @property
    def bytes(self) -> int:
        """Of its arrays, each time together. What crosses a link is up to the algorithm."""
        return self.times * sum(array.bytes for array in self.arrays)

    @property
    def largest(self) -> HloArray:
        """The largest of its arrays."""
        return max(self.arrays, key=lambda array: array.bytes)


def read(compiled: jax.stages.Compiled, mesh: Mesh) -> list[Collective]:
    """The collectives of a program that was compiled for `mesh` (data × model).

    Raises:
      ValueError: the text names groups of devices in a way that is not known here.
    """
    lines, entry = _computations(compiled.as_text())

    @functools.cache
    def within(name: str) -> tuple[Collective, ...]:
        found = []
        for line in lines.get(name, ()):
            trips = _TRIPS.search(line)
            times = int(trips[1]) if trips else 1
            for called in _CALLED.findall(line):
                for each in re.findall(r"[\w.-]+", called):
                    inner = within(each)
                    found += [dataclasses.replace(c, times=times * c.times) for c in inner]
            if match := _COLLECTIVE.search(line):
                found += _collective(match, line, mesh)
        return tuple(found)

    return list(within(entry))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the first to run."""
    lines: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if line.startswith(" "):
            lines.setdefault(name, []).append(line)
        elif match := _COMPUTATION.match(line):
            name = match["name"]
            entry = name if match["entry"] else entry
    return lines, entry


def _collective(match: re.Match, line: str, mesh: Mesh) -> Iterator[Collective]:
    groups = _groups(line, mesh.size)
    if groups.shape[1] < 2:
        return  # each device with itself
    arrays = [
        HloArray(dtype, tuple(_numbers(shape))) for dtype, shape in _ARRAY.findall(match["result"])
    ]
    # A started one gives what goes in, then what comes out, then perhaps marks.
    if match["start"] and match["kind"] == "collective-permute":
        arrays = arrays[1:2]
    elif match["start"] and match["kind"] == "all-gather":
        arrays = arrays[len(arrays) // 2 :]
    if match["kind"] == "reduce-scatter":
        scattered = int(re.search(r"\bdimensions=\{(\d+)\}", line)[1])
        parts = groups.shape[1]
        arrays = [
            HloArray(dtype, tuple(n * parts if i == scattered else n for i, n in enumerate(shape)))
            for dtype, shape in arrays
        ]
    source = re.search(r'op_name="([^"]*)"', line)
    yield Collective(
        match["kind"], _axis(groups, mesh), tuple(arrays), 1, source[1] if source else ""
    )


def _axis(groups: np.ndarray, mesh: Mesh) -> str:
    """Which coordinates differ within a group; devices are numbered row by row."""
    coordinates = np.divmod(groups, mesh.shape[partitioning.MODEL])
    names = (partitioning.DATA, partitioning.MODEL)
    return "+".join(
        name for name, each in zip(names, coordinates, strict=True) if (each != each[:, :1]).any()
    )


def _groups(line: str, devices: int) -> np.ndarray:
    """The groups of a collective's line, [groups, devices of a group]."""
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", line):
        rows = [_numbers(row) for row in re.findall(r"\{([\d,]+)\}", match[1])]
        return np.array(rows or [range(devices)], int)
    if match := re.search(rf"replica_groups=\[([\d,]+)\]<={_IOTA}", line):
        return _iota(match[2], match[3]).reshape(_numbers(match[1]))
    if match := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? \{{([^}}]*)\}}", line
    ):
        mesh, shape, order, along = match.groups()
        return _mesh_groups(mesh, _iota(shape or str(devices), order), along)
    raise ValueError(f"cannot parse the groups of this collective: {line.strip()}")


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def _iota(shape: str, order: str | None) -> np.ndarray:
    """All devices in the order that [2,4]T(1,0) means: numbered as 2 × 4, then transposed."""
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _mesh_groups(mesh: str, ids: np.ndarray, along: str) -> np.ndarray:
    """The groups along 'a','b' of a mesh 'a'=2,'b'=8; of 'b':(2)4, a part of b, as if b were 2 × 4."""
    sizes, moved = [], []
    for name, size in re.findall(r"'([^']+)'=(\d+)", mesh):
        match = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", along)
        before, part = (1, int(size)) if match else (int(size), 1)
        if match and match[1]:
            before, part = int(match[1]), int(match[2])
        moved.append(len(sizes) + 1)
        sizes += [before, part, int(size) // (before * part)]
    rows = np.moveaxis(ids.reshape(sizes), moved, range(-len(moved), 0))
    return rows.reshape(-1, math.prod(sizes[i] for i in moved))


def of_weights(found: Iterable[Collective], weights: Iterable[Shape]) -> list[Collective]:
    """Those over `model` of an array as large as a whole weight, which sharding was to spare.

    Args:
      found: collectives of a step.
      weights: whole shapes of weights that are sharded over `model`; transposed is the same.
    """
    known = {_turned(shape) for shape in weights}
    return [
        each
        for each in found
        if partitioning.MODEL in each.axis
        and any(_turned(array.shape) in known for array in each.arrays)
    ]


def _turned(shape: Shape) -> Shape:
    return tuple(sorted(n for n in shape if n > 1))


def summary(found: Sequence[Collective]) -> list[dict[str, Any]]:
    """One row for each kind and axis, most bytes first: "kind", "axis", "count", "bytes", "largest"."""

    def key(each: Collective) -> tuple[str, str]:
        return each.kind, each.axis

    rows = []
    for (kind, axis), group in itertools.groupby(sorted(found, key=key), key):
        some = list(group)
        row = {"kind": kind, "axis": axis, "count": sum(each.times for each in some)}
        row["bytes"] = sum(each.bytes for each in some)
        largest = max((each.largest for each in some), key=lambda array: array.bytes)
        rows.append({**row, "largest": str(largest)})
    return sorted(rows, key=lambda row: -row["bytes"])
