"""Pictures that can be read at half their size, and without telling colours apart."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from etils import epath

# Okabe & Ito's colours, told apart by the colour-blind, and a mark each.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--")


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
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.getvalue())
    temporary.replace(path)
