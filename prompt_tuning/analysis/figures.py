"""Pictures that can be read at half their size, and without telling colours apart."""

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.checkpoints import atomic

# Okabe & Ito's colours, told apart by the colour-blind, and a mark each.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--")
HATCHES = ("", "//", "..", "xx", "\\\\")


def style(number: int) -> dict[str, Any]:
    """How line `number` is drawn: no two of 14 alike."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
        "markersize": 7,
        "linewidth": 2,
    }


@contextlib.contextmanager
def figure(path: epath.PathLike, x: str, y: str, title: str = "") -> Iterator[Any]:
    """Matplotlib axes with these labels, which are written to a PNG file at the end."""
    from matplotlib import figure as figures  # half a second, which no other command waits for

    picture = figures.Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = picture.add_subplot()
    axes.set_xlabel(x, fontsize=14)
    axes.set_ylabel(y, fontsize=14)
    axes.set_title(title, fontsize=15)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    content = io.BytesIO()
    picture.savefig(content, format="png")
    atomic.write(path, content.getvalue())


def lines(axes: Any, series: Mapping[str, Sequence[tuple[Any, float, float]]]) -> None:
    """A line with error bars for each series of (x, y, deviation or nan).

    x that are no numbers stand evenly. Series stand a little apart, so that no error bar hides another.
    """
    for number, (name, points) in enumerate(series.items()):
        x, y, spread = zip(*points, strict=True)
        numeric = all(isinstance(value, int | float) for value in x)
        places = list(x) if numeric else list(range(len(x)))
        logarithmic = numeric and min(places) > 0 and max(places) > 10 * min(places)
        apart, width = number - (len(series) - 1) / 2, max(places) - min(places)
        beside = [x * 1.04**apart if logarithmic else x + 0.015 * width * apart for x in places]
        axes.errorbar(beside, y, yerr=spread, capsize=5, label=name, **style(number))
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xticks(places, [str(value) for value in x])
        axes.minorticks_off()
    if len(series) > 1:
        legend(axes)


def bars(axes: Any, groups: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """A group of bars for each name, of {what: (height, deviation or nan)}."""
    kinds = list(next(iter(groups.values())))
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        heights, spreads = zip(*(of[kind] for of in groups.values()), strict=True)
        places = [i + (number - (len(kinds) - 1) / 2) * width for i in range(len(groups))]
        axes.bar(
            places, heights, width, yerr=spreads, capsize=5, label=kind, edgecolor="white",
            color=COLORS[number % len(COLORS)], hatch=HATCHES[number % len(HATCHES)],
        )  # fmt: skip
    axes.set_xticks(
        range(len(groups)), [textwrap.fill(name, 12, break_on_hyphens=False) for name in groups]
    )
    if len(kinds) > 1:
        legend(axes)


def legend(axes: Any) -> None:
    """What is what, beside the axes, where it covers nothing."""
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=12)
