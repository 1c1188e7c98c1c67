"""Reports of scripts/bench.py: JSON lines, tables and plots."""

import json
import math
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]
# Counts in a record's facts, and the unit of their rate.
RATES = {"examples": "examples/s", "tokens": "tokens/s", "flops": "GFLOP/s"}
GIB = 2**30


class Point(NamedTuple):
    """A point of a growth curve.

    Attributes:
      name: label on axes.
      size: value on axes.
      record: measurement of the step.
    """

    name: str
    size: float
    record: Record


def write_line(record: Record, path: str | None) -> None:
    """Appends a record to a file of JSON lines in one write, or prints it."""
    if path is None:
        print(json.dumps(record), flush=True)
        return
    with open(path, "ab", buffering=0) as file:
        file.write(f"{json.dumps(record)}\n".encode())


def rate(record: Record) -> str:
    """Formats the rate of a program, "" if its record has no count."""
    for name, unit in RATES.items():
        if count := record["facts"].get(name):
            scale = 1e9 if name == "flops" else 1
            return f"{count / record['median'] / scale:.4g} {unit}"
    return ""


def memory(record: Record) -> str:
    """Formats peak memory, and the growth while loading relative to the size of the weights."""
    facts = record["facts"]
    text = f"{record['peak_bytes'] / GIB:.2f} GiB" if "peak_bytes" in record else ""
    if growth := facts.get("growth_bytes"):
        text += f" (growth {growth / facts['weights_bytes']:.2f} × the weights)"
    return text


def table(records: Sequence[Record]) -> str:
    """Formats one line per program, with the ratio of each PEFT program's time to it."""
    peers = [x for x in records if x["program"].startswith("peft") and "median" in x]
    heads = [f"{peer['program']} / it" for peer in peers]
    rows = [("program", "seconds", "spread", "peak memory", "rate", *heads)]
    for record in records:
        if "absent" in record:
            rows.append((record["program"], "absent", *[""] * (3 + len(peers))))
            continue
        ratios = [f"{ratio(peer, record):.2f}" if _is_compared(record) else "" for peer in peers]
        seconds, spread = f"{step_seconds(record):.4g}", f"{100 * record['spread']:.0f} %"
        rows.append((record["program"], seconds, spread, memory(record), rate(record), *ratios))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    reasons = [
        f"{record['program']}: {record['absent'].splitlines()[-1]}"
        for record in records
        if "absent" in record
    ]
    return "\n".join([*lines, *reasons])


def step_seconds(record: Record) -> float:
    """Median seconds per step."""
    return record["median"] / record["settings"].get("steps", 1)


def _is_compared(record: Record) -> bool:
    """Whether the record is of the benchmark itself, not of products or of saving."""
    return record["program"].startswith(("prompt-tuning", "peft"))


def ratio(peer: Record, record: Record) -> float:
    """Time of `peer` relative to that of `record`, per example if both count examples.

    The median over pairs of neighboring repeats, so load that slows both has no effect.
    """
    pairs = zip(peer["seconds"], record["seconds"], strict=True)
    counts = [x["facts"].get("examples", 1) for x in (record, peer)]
    return statistics.median(a / b for a, b in pairs) * counts[0] / counts[1]


def arithmetic(records: Sequence[Record], peak_tflops: float | None) -> str:
    """Compares the FLOP rate of a step with that of matrix products; "" without a step."""
    step = next((x for x in records if "analytic_flops" in x.get("facts", ())), None)
    if step is None or "median" not in step:
        return ""
    seconds = step_seconds(step)
    compiled, analytic = (step["facts"][f"{kind}_flops"] for kind in ("compiled", "analytic"))
    lines = [
        f"step: {compiled / 1e9:.4g} GFLOP compiled, {compiled / analytic:.3f} of the analytic "
        f"{analytic / 1e9:.4g}; {compiled / seconds / 1e9:.4g} GFLOP/s"
    ]
    products = [
        (record["facts"]["flops"] / record["median"], record["program"])
        for record in records
        if record["program"].startswith("products") and "median" in record
    ]
    if products:
        best, name = max(products)
        lines.append(
            f"matrix products of the same shapes: {best / 1e9:.4g} GFLOP/s ({name}); "
            f"the step reaches {compiled / seconds / best:.2f} of it"
        )
    if peak_tflops:
        share = analytic / seconds / peak_tflops / 1e12
        lines.append(f"analytic FLOPs: {100 * share:.1f} % of {peak_tflops:g} TFLOP/s")
    return "\n".join(lines)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of log value over log size: 1 is linear, 2 quadratic."""
    return statistics.linear_regression(
        [math.log(x) for x in sizes], [math.log(y) for y in values]
    )[0]


# Costs of a step, computed from its record.
COSTS: Mapping[str, Callable[[Record], float]] = {
    "seconds per step": step_seconds,
    "temporary arrays, GiB": lambda record: record["facts"]["temporary_bytes"] / GIB,
    "peak memory of the process, GiB": lambda record: record["peak_bytes"] / GIB,
}


def growth_table(curves: Mapping[str, Sequence[Point]]) -> str:
    """Formats one Markdown table per curve, with the exponents of the fits."""
    lines = []
    seconds, temporary, peak = COSTS
    for setting, points in curves.items():
        measured = [point for point in points if "median" in point.record]
        lines += [
            f"| {setting} | {seconds} | GFLOP/s | {temporary} | {peak} |",
            "|---|---|---|---|---|",
        ]
        for name, _, record in measured:
            time, *memory = (f"{cost(record):.3g}" for cost in COSTS.values())
            speed = record["facts"]["compiled_flops"] / step_seconds(record) / 1e9
            lines.append(f"| {name} | {time} | {speed:.0f} | {' | '.join(memory)} |")
        if len(measured) > 1:
            time, *memory = (f"{x:.2f}" for x in _exponents(measured))
            lines.append(f"| exponent | {time} | | {' | '.join(memory)} |")
        lines.append("")
    return "\n".join(lines)


def _exponents(points: Sequence[Point]) -> list[float]:
    """The exponent of each of COSTS."""
    sizes = [point.size for point in points]
    return [exponent(sizes, [cost(point.record) for point in points]) for cost in COSTS.values()]


def plot_growth(curves: Mapping[str, Sequence[Point]], path: str) -> None:
    """Plots one row per cost and one column per curve, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(COSTS), len(curves), figsize=(3 * len(curves), 7), layout="constrained", squeeze=False
    )
    for column, (setting, points) in enumerate(curves.items()):
        measured = [point for point in points if "median" in point.record]
        sizes = [point.size for point in measured]
        for row, (label, cost) in enumerate(COSTS.items()):
            axes, values = grid[row][column], [cost(point.record) for point in measured]
            axes.loglog(sizes, values, "o-")
            for size, value in zip(sizes, values, strict=True):
                axes.annotate(
                    f"{value:.2g}", (size, value), xytext=(-4, 6), textcoords="offset points",
                    ha="right", fontsize=9,
                )  # fmt: skip
            axes.set_xticks(sizes, [point.name for point in measured], fontsize=9, rotation=30)
            axes.set_yticks([])  # Each point is labeled with its value.
            axes.minorticks_off()
            axes.margins(0.2)
            axes.set(xlabel=setting, ylabel="" if column else label)
            if len(measured) > 1:
                axes.set_title(f"exponent {_exponents(measured)[row]:.2f}", fontsize=9)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"plot: {path}", file=sys.stderr)
