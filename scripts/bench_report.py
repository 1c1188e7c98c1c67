"""What scripts/bench.py shows: JSON lines, a table, plots, and how a step grows."""

import json
import math
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]
# What a turn does this often, in the unit of the command's rate.
RATES = {"examples": "examples/s", "tokens": "tokens/s", "flops": "GFLOP/s"}
GIB = 2**30


class Point(NamedTuple):
    """A step of one size.

    Attributes:
      name: of the size, on axes.
      size: how large it is.
      record: of the step.
    """

    name: str
    size: float
    record: Record


def write_line(record: Record, path: str | None) -> None:
    """Appends a record to a file of JSON lines, or prints it; a process that is killed leaves complete lines."""
    if path is None:
        print(json.dumps(record), flush=True)
        return
    with open(path, "ab", buffering=0) as file:
        file.write(f"{json.dumps(record)}\n".encode())


def rate(record: Record) -> str:
    """What a program gets done in a second; "" where nothing is counted."""
    for name, unit in RATES.items():
        if done := record["facts"].get(name):
            scale = 1e9 if name == "flops" else 1
            return f"{done / record['median'] / scale:.4g} {unit}"
    return ""


def memory(record: Record) -> str:
    """The most that the process held; where it loads weights, what it grew by in weights' bytes too."""
    facts = record["facts"]
    text = f"{record['peak_bytes'] / GIB:.2f} GiB" if "peak_bytes" in record else ""
    if growth := facts.get("growth_bytes"):
        text += f" (grew by {growth / facts['weights_bytes']:.2f} × the weights)"
    return text


def table(records: Sequence[Record]) -> str:
    """A line a program, and for each peer how many times as long as the program it takes."""
    peers = [each for each in records if each["program"].startswith("peft") and "median" in each]
    heads = [f"{peer['program']} / it" for peer in peers]
    rows = [("program", "seconds", "spread", "peak memory", "rate", *heads)]
    for record in records:
        if "absent" in record:
            rows.append((record["program"], "absent", *[""] * (3 + len(peers))))
            continue
        against = [f"{ratio(peer, record):.2f}" if _is_compared(record) else "" for peer in peers]
        rows.append(
            (
                record["program"],
                f"{seconds_a_step(record):.4g}",
                f"{100 * record['spread']:.0f} %",
                memory(record),
                rate(record),
                *against,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    reasons = [
        f"{each['program']}: {each['absent'].splitlines()[-1]}"
        for each in records
        if "absent" in each
    ]
    return "\n".join([*lines, *reasons])


def seconds_a_step(record: Record) -> float:
    """The median, of one of the steps that a turn does."""
    return record["median"] / record["settings"].get("steps", 1)


def _is_compared(record: Record) -> bool:
    """Products are no steps, and saving is not loading."""
    return record["program"].startswith(("ours", "peft"))


def ratio(peer: Record, record: Record) -> float:
    """Time of `peer` over that of `record`, for an example each where they are counted.

    The median over pairs of turns that followed each other, so that what slowed both is not in it.
    """
    pairs = zip(peer["seconds"], record["seconds"], strict=True)
    done = [each["facts"].get("examples", 1) for each in (record, peer)]
    return statistics.median(theirs / its for theirs, its in pairs) * done[0] / done[1]


def arithmetic(records: Sequence[Record], peak_tflops: float | None) -> str:
    """How near our step comes to what the machine's matrix products reach; "" where it did not run."""
    step = next((each for each in records if "analytic_flops" in each.get("facts", ())), None)
    if step is None or "median" not in step:
        return ""
    seconds = seconds_a_step(step)
    compiled, analytic = (step["facts"][f"{kind}_flops"] for kind in ("compiled", "analytic"))
    lines = [
        f"our step: {compiled / 1e9:.4g} GFLOP compiled, {compiled / analytic:.3f} of the analytic "
        f"{analytic / 1e9:.4g}; {compiled / seconds / 1e9:.4g} GFLOP/s"
    ]
    products = [
        (each["facts"]["flops"] / each["median"], each["program"])
        for each in records
        if each["program"].startswith("products") and "median" in each
    ]
    if products:
        best, name = max(products)
        lines.append(
            f"dense products of its sizes: {best / 1e9:.4g} GFLOP/s at best ({name}); "
            f"our step reaches {compiled / seconds / best:.2f} of it"
        )
    if peak_tflops:
        share = analytic / seconds / peak_tflops / 1e12
        lines.append(f"of {peak_tflops:g} TFLOP/s, the analytic FLOPs use {100 * share:.1f} %")
    return "\n".join(lines)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log value over log size, by least squares: 1 is linear, 2 quadratic."""
    return statistics.linear_regression(
        [math.log(x) for x in sizes], [math.log(y) for y in values]
    )[0]


# What a step costs, from its record.
COSTS: Mapping[str, Callable[[Record], float]] = {
    "seconds a step": seconds_a_step,
    "its temporary arrays, GiB": lambda record: record["facts"]["temporary_bytes"] / GIB,
    "peak memory of the process, GiB": lambda record: record["peak_bytes"] / GIB,
}


def growth_table(curves: Mapping[str, Sequence[Point]]) -> str:
    """Markdown: a table for each thing that grows, with the exponents of the fits."""
    lines = []
    seconds, temporary, peak = COSTS
    for what, points in curves.items():
        found = [point for point in points if "median" in point.record]
        lines += [
            f"| {what} | {seconds} | GFLOP/s | {temporary} | {peak} |",
            "|---|---|---|---|---|",
        ]
        for name, _, record in found:
            time, *memory = (f"{cost(record):.3g}" for cost in COSTS.values())
            speed = record["facts"]["compiled_flops"] / seconds_a_step(record) / 1e9
            lines.append(f"| {name} | {time} | {speed:.0f} | {' | '.join(memory)} |")
        if len(found) > 1:
            time, *memory = (f"{each:.2f}" for each in _exponents(found))
            lines.append(f"| exponent | {time} | | {' | '.join(memory)} |")
        lines.append("")
    return "\n".join(lines)


def _exponents(points: Sequence[Point]) -> list[float]:
    """Of each of COSTS."""
    sizes = [point.size for point in points]
    return [exponent(sizes, [cost(point.record) for point in points]) for cost in COSTS.values()]


def plot_bars(records: Sequence[Record], path: str, title: str) -> None:
    """Medians and every turn, one bar a program; of an example where they are counted."""
    plt = _pyplot()
    shown = [each for each in records if "median" in each and _is_compared(each)]
    figure, axes = plt.subplots(figsize=(7, 1 + 0.4 * len(shown)), layout="constrained")
    for place, record in enumerate(shown):
        done = record["facts"].get("examples", 1)
        axes.barh(place, record["median"] / done, color="tab:blue", alpha=0.6)
        axes.plot(
            [each / done for each in record["seconds"]], [place] * len(record["seconds"]), "k|"
        )
    axes.set_yticks(range(len(shown)), [record["program"] for record in shown])
    axes.invert_yaxis()
    unit = "an example" if any("examples" in each["facts"] for each in shown) else "a turn"
    axes.set(xlabel=f"seconds {unit}: median (bar), each turn (tick)", title=title)
    _save(figure, path)


def plot_growth(curves: Mapping[str, Sequence[Point]], path: str) -> None:
    """A row for each of COSTS, a column for each thing that grows; logarithmic axes."""
    plt = _pyplot()
    figure, grid = plt.subplots(
        len(COSTS), len(curves), figsize=(3 * len(curves), 7), layout="constrained", squeeze=False
    )
    for column, (what, points) in enumerate(curves.items()):
        found = [point for point in points if "median" in point.record]
        sizes = [point.size for point in found]
        for row, (label, cost) in enumerate(COSTS.items()):
            axes, values = grid[row][column], [cost(point.record) for point in found]
            axes.loglog(sizes, values, "o-")
            for size, value in zip(sizes, values, strict=True):
                axes.annotate(
                    f"{value:.2g}", (size, value), xytext=(-4, 6), textcoords="offset points",
                    ha="right", fontsize=9,
                )  # fmt: skip
            axes.set_xticks(sizes, [point.name for point in found], fontsize=9, rotation=30)
            axes.set_yticks([])  # Each point is labeled with its value.
            axes.minorticks_off()
            axes.margins(0.2)
            axes.set(xlabel=what, ylabel="" if column else label)
            if len(found) > 1:
                axes.set_title(f"exponent {_exponents(found)[row]:.2f}", fontsize=9)
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: str) -> None:
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"plot: {path}", file=sys.stderr)
