"""Tables and plots of a study: means and standard deviations over seeds."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.analysis import figures

VALIDATION = "validation"
# {"variant", "value", "seed", "trained", "scores": {name: score}}
Row = dict[str, Any]
# Mean, sample standard deviation (nan for a single value) and number of values.
Spread = tuple[float, float, int]
Axis = tuple[str, Sequence[Any]] | None


@dataclasses.dataclass(frozen=True)
class Line:
    """A point: trainable parameters of each seed, and {name: spread of the score over seeds}."""

    trained: int
    scores: Mapping[str, Spread]


Summary = Mapping[tuple[str, Any], Line]


def _spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return statistics.mean(values), deviation, len(values)


def _spreads(scores: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {name: _spread([of_seed[name] for of_seed in scores]) for name in scores[0]}


def summarise(rows: Sequence[Row]) -> Summary:
    """Returns {(variant, value): line}."""
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["value"]), []).append(row)
    return {
        key: Line(group[0]["trained"], _spreads([row["scores"] for row in group]))
        for key, group in groups.items()
    }


def _format(spread: Spread, sign: str = "") -> str:
    mean, deviation, count = spread
    return f"{mean:{sign}.1f}" + (f" ± {deviation:.1f}" if count > 1 else "")


def cells(summary: Summary, axis: Axis) -> list[list[str]]:
    """Returns the rows of the table: mean ± sample standard deviation over seeds."""
    names = list(next(iter(summary.values())).scores)
    rows = [["", *([axis[0]] if axis else []), "trained", *names]]
    for (variant, value), line in summary.items():
        scores = [_format(line.scores[name]) for name in names]
        rows.append([variant, *([str(value)] if axis else []), f"{line.trained:,}", *scores])
    return rows


def difference(rows: Sequence[Row], first: str, second: str, axis: Axis) -> list[list[str]]:
    """Returns rows of a table: per-seed differences of the scores of two variants."""
    lines = []
    for value in axis[1] if axis else [None]:
        minuends, subtrahends = (
            {row["seed"]: row["scores"] for row in rows if (row["variant"], row["value"]) == key}
            for key in ((first, value), (second, value))
        )
        differences = [
            {name: score - subtrahends[seed][name] for name, score in scores.items()}
            for seed, scores in minuends.items()
            if seed in subtrahends
        ]
        cells = [_format(spread, "+") for spread in _spreads(differences).values()]
        lines.append([f"{first} − {second}", *([str(value)] if axis else []), "", *cells])
    return lines


def markdown(cells: Sequence[Sequence[str]], title: str) -> str:
    """Formats a table, below its title if there is one."""
    head, *rows = cells
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{title}\n\n{table}" if title else table


def plot(summary: Summary, path: epath.PathLike, title: str, axis: Axis) -> None:
    """Plots the first score over the axis, one line per variant; without an axis, bars of all scores.

    Error bars have one standard deviation.
    """
    variants = list(dict.fromkeys(variant for variant, _ in summary))
    label = axis[0].lower().replace("_", " ") if axis else ""
    with figures.figure(path, label, "score, %", title) as axes:
        if not axis:
            groups = {variant: summary[variant, None].scores for variant in variants}
            heights = {v: {n: x[:2] for n, x in scores.items()} for v, scores in groups.items()}
            figures.bars(axes, heights)
            return
        firsts = {key: next(iter(line.scores.values())) for key, line in summary.items()}
        series = {v: [(value, *firsts[v, value][:2]) for value in axis[1]] for v in variants}
        figures.lines(axes, series)
