"""Plots that are legible at half size and for color-blind readers."""

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.checkpoints import atomic

# The palette of Okabe and Ito, which color-blind readers can distinguish.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--")
HATCHES = ("", "//", "..", "xx", "\\\\")


def style(number: int) -> dict[str, Any]:
    """Returns the Matplotlib style of line `number`; 14 styles are distinct."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
        "markersize": 7,
        "linewidth": 2,
    }


@contextlib.contextmanager
def figure(path: epath.PathLike, x: str, y: str, title: str = "") -> Iterator[Any]:
    """Yields labelled Matplotlib axes, and writes them to a PNG file at the end."""
    from matplotlib import figure as figures  # Takes half a second to import.

    plot = figures.Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = plot.add_subplot()
    axes.set_xlabel(x, fontsize=14)
    axes.set_ylabel(y, fontsize=14)
    axes.set_title(title, fontsize=15)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    content = io.BytesIO()
    plot.savefig(content, format="png")
    atomic.write(path, content.getvalue())


def lines(axes: Any, series: Mapping[str, Sequence[tuple[Any, float, float]]]) -> None:
    """Plots one line with error bars per series of (x, y, deviation or nan).

    Non-numeric x are evenly spaced. Series are slightly offset, so that error bars do not overlap.
    """
    for number, (name, points) in enumerate(series.items()):
        x, y, errors = zip(*points, strict=True)
        is_numeric = all(isinstance(value, int | float) for value in x)
        ticks = list(x) if is_numeric else list(range(len(x)))
        is_log = is_numeric and min(ticks) > 0 and max(ticks) > 10 * min(ticks)
        offset, width = number - (len(series) - 1) / 2, max(ticks) - min(ticks)
        shifted = [t * 1.04**offset if is_log else t + 0.015 * width * offset for t in ticks]
        axes.errorbar(shifted, y, yerr=errors, capsize=5, label=name, **style(number))
        if is_log:
            axes.set_xscale("log")
        axes.set_xticks(ticks, [str(value) for value in x])
        axes.minorticks_off()
    if len(series) > 1:
        legend(axes)


def bars(axes: Any, groups: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Plots one group of bars per name; a group is {bar: (height, deviation or nan)}."""
    names = list(next(iter(groups.values())))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        heights, errors = zip(*(group[name] for group in groups.values()), strict=True)
        x = [i + (number - (len(names) - 1) / 2) * width for i in range(len(groups))]
        axes.bar(
            x, heights, width, yerr=errors, capsize=5, label=name, edgecolor="white",
            color=COLORS[number % len(COLORS)], hatch=HATCHES[number % len(HATCHES)],
        )  # fmt: skip
    axes.set_xticks(
        range(len(groups)), [textwrap.fill(name, 12, break_on_hyphens=False) for name in groups]
    )
    if len(names) > 1:
        legend(axes)


def legend(axes: Any) -> None:
    """Adds a legend beside the axes, where it covers no points."""
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=12)
