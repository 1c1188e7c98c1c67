"""The collectives of a compiled program, parsed from its HLO text."""

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
    """An array in HLO: f32[4,612,1024]."""

    dtype: str
    shape: Shape

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        bits = 8 if self.dtype == "pred" else int(re.search(r"\d+", self.dtype)[0])
        return math.prod(self.shape) * bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the devices of a group.

    Attributes:
      kind: "all-reduce", "all-gather", ...
      axis: mesh axis of the group: "data", "model" or "data+model".
      arrays: complete arrays on one device: operands, or the results of a gather.
      times: executions per run of the program; a loop of unknown length counts once.
      source: operation of the JAX program.
    """

    kind: str
    axis: str
    arrays: tuple[HloArray, ...]
    times: int
    source: str

    @property
    def bytes(self) -> int:
        """Bytes of its arrays in all executions; traffic per link depends on the algorithm."""
        return self.times * sum(array.bytes for array in self.arrays)

    @property
    def largest(self) -> HloArray:
        """The largest array."""
        return max(self.arrays, key=lambda array: array.bytes)


def read(compiled: jax.stages.Compiled, mesh: Mesh) -> list[Collective]:
    """Returns the collectives of a program that was compiled for `mesh` (data × model).

    Raises:
      ValueError: the format of the device groups is unknown.
    """
    lines, entry = _computations(compiled.as_text())

    @functools.cache
    def within(name: str) -> tuple[Collective, ...]:
        result = []
        for line in lines.get(name, ()):
            trips = _TRIPS.search(line)
            times = int(trips[1]) if trips else 1
            for called in _CALLED.findall(line):
                for callee in re.findall(r"[\w.-]+", called):
                    inner = within(callee)
                    result += [dataclasses.replace(c, times=times * c.times) for c in inner]
            if match := _COLLECTIVE.search(line):
                result += _collective(match, line, mesh)
        return tuple(result)

    return list(within(entry))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of the computations by name, and the name of the entry computation."""
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
        return  # groups of one device
    arrays = [
        HloArray(dtype, tuple(_numbers(shape))) for dtype, shape in _ARRAY.findall(match["result"])
    ]
    # The result of a -start operation is (operands, results, perhaps contexts).
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
    """Returns the mesh axes along which a group extends; device ids are in row-major order."""
    coordinates = np.divmod(groups, mesh.shape[partitioning.MODEL])
    names = (partitioning.DATA, partitioning.MODEL)
    return "+".join(
        name
        for name, index in zip(names, coordinates, strict=True)
        if (index != index[:, :1]).any()
    )


def _groups(line: str, devices: int) -> np.ndarray:
    """Parses the groups of a collective, [groups, devices per group]."""
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
    """Returns the device ids of an iota such as [2,4]T(1,0): a 2 × 4 range, transposed."""
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _mesh_groups(mesh: str, ids: np.ndarray, along: str) -> np.ndarray:
    """Returns the groups along axes 'a','b' of a mesh 'a'=2,'b'=8; 'b':(2)4 splits b into 2 × 4."""
    sizes, group_axes = [], []
    for name, size in re.findall(r"'([^']+)'=(\d+)", mesh):
        match = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", along)
        before, part = (1, int(size)) if match else (int(size), 1)
        if match and match[1]:
            before, part = int(match[1]), int(match[2])
        group_axes.append(len(sizes) + 1)
        sizes += [before, part, int(size) // (before * part)]
    rows = np.moveaxis(ids.reshape(sizes), group_axes, range(-len(group_axes), 0))
    return rows.reshape(-1, math.prod(sizes[i] for i in group_axes))


def weight_exchanges(exchanges: Iterable[Collective], weights: Iterable[Shape]) -> list[Collective]:
    """Returns the collectives over `model` of complete weights, which sharding should avoid.

    Args:
      exchanges: collectives of a step.
      weights: complete shapes of weights that are sharded over `model`; transposes match too.
    """
    shapes = {_sorted_dims(shape) for shape in weights}
    return [
        collective
        for collective in exchanges
        if partitioning.MODEL in collective.axis
        and any(_sorted_dims(array.shape) in shapes for array in collective.arrays)
    ]


def _sorted_dims(shape: Shape) -> Shape:
    return tuple(sorted(n for n in shape if n > 1))


def summarize(exchanges: Sequence[Collective]) -> list[dict[str, Any]]:
    """Returns one row per kind and axis, by bytes: "kind", "axis", "count", "bytes", "largest"."""

    def key(collective: Collective) -> tuple[str, str]:
        return collective.kind, collective.axis

    rows = []
    for (kind, axis), group in itertools.groupby(sorted(exchanges, key=key), key):
        members = list(group)
        row = {"kind": kind, "axis": axis, "count": sum(member.times for member in members)}
        row["bytes"] = sum(member.bytes for member in members)
        largest = max((member.largest for member in members), key=lambda array: array.bytes)
        rows.append({**row, "largest": str(largest)})
    return sorted(rows, key=lambda row: -row["bytes"])
