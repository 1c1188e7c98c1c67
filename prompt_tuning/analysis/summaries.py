"""Tables and pictures of a study: means and deviations over seeds."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.analysis import figures

VALIDATION = "validation"
# {"variant", "value", "seed", "trained", "scores": {name: score}}
Row = dict[str, Any]
# Mean, sample deviation (nan of one) and number.
Spread = tuple[float, float, int]
Axis = tuple[str, Sequence[Any]] | None


@dataclasses.dataclass(frozen=True)
class Line:
    """The seeds of one point: how many numbers each trained, {score's name: mean and spread}."""

    trained: int
    scores: Mapping[str, Spread]


Summary = Mapping[tuple[str, Any], Line]


def _spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return statistics.mean(values), deviation, len(values)


def _spreads(scores: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {name: _spread([each[name] for each in scores]) for name in scores[0]}


def summarise(rows: Sequence[Row]) -> Summary:
    """{(variant, value): its line}."""
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["value"]), []).append(row)
    return {
        key: Line(some[0]["trained"], _spreads([row["scores"] for row in some]))
        for key, some in groups.items()
    }


def _told(of: Spread, sign: str = "") -> str:
    mean, deviation, count = of
    return f"{mean:{sign}.1f}" + (f" ± {deviation:.1f}" if count > 1 else "")


def cells(summary: Summary, axis: Axis) -> list[list[str]]:
    """The table: mean ± sample deviation over seeds."""
    names = list(next(iter(summary.values())).scores)
    rows = [["", *([axis[0]] if axis else []), "trained", *names]]
    for (variant, value), line in summary.items():
        scores = [_told(line.scores[name]) for name in names]
        rows.append([variant, *([str(value)] if axis else []), f"{line.trained:,}", *scores])
    return rows


def difference(rows: Sequence[Row], first: str, second: str, axis: Axis) -> list[list[str]]:
    """Lines of a table: the scores of one variant less those of another, seed by seed."""
    lines = []
    for value in axis[1] if axis else [None]:
        ours, theirs = (
            {row["seed"]: row["scores"] for row in rows if (row["variant"], row["value"]) == key}
            for key in ((first, value), (second, value))
        )
        both = [
            {name: ours[seed][name] - theirs[seed][name] for name in ours[seed]}
            for seed in ours
            if seed in theirs
        ]
        told = [_told(each, "+") for each in _spreads(both).values()]
        lines.append([f"{first} − {second}", *([str(value)] if axis else []), "", *told])
    return lines


def markdown(cells: Sequence[Sequence[str]], title: str) -> str:
    """A table, with a title where there is one."""
    head, *rows = cells
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{title}\n\n{table}" if title else table


def plot(summary: Summary, path: epath.PathLike, title: str, axis: Axis) -> None:
    """With an axis a line a variant, of the first score; else a group of bars a variant.

    Error bars: one deviation.
    """
    variants = list(dict.fromkeys(variant for variant, _ in summary))
    label = axis[0].lower().replace("_", " ") if axis else ""
    with figures.figure(path, label, "score, %", title) as axes:
        if not axis:
            groups = {variant: summary[variant, None].scores for variant in variants}
            heights = {v: {n: of[:2] for n, of in scores.items()} for v, scores in groups.items()}
            figures.bars(axes, heights)
            return
        firsts = {key: next(iter(line.scores.values())) for key, line in summary.items()}
        series = {v: [(value, *firsts[v, value][:2]) for value in axis[1]] for v in variants}
        figures.lines(axes, series)
