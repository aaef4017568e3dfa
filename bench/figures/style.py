"""How every figure looks: colours, markers, size, and how it becomes SVG text."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")
Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito: eight colours that colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "apt-edge",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
WIDTH = 8.0


def drawn(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Let a function that draws a figure do so in the house style, and return the figure as SVG text."""

    @functools.wraps(draw)
    def as_svg(*args: P.args, **kwargs: P.kwargs) -> str:
        with mpl.rc_context(STYLE):
            text = io.StringIO()
            draw(*args, **kwargs).savefig(text, format="svg", dpi=150, metadata={"Date": None})
        return text.getvalue()[text.getvalue().index("<svg") :]  # the XML prologue has no place inside a page

    return as_svg


def canvas(height: float = 4.0) -> Figure:
    """An empty figure, as wide as the page; `height` in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def list_height(count: int) -> float:
    """Height in inches of a figure that has one line for each of `count` rows."""
    return 1.0 + 0.42 * max(count, 2)


def colour(index: int) -> str:
    """The colour of row `index`."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Moves on by one more with each round of the colours, so that no two rows look alike."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def looks(rows: Rows) -> Iterator[tuple[Mapping[str, Any], int, str | None]]:
    """Each row with the index of its colour and marker, and its name in the legend.

    The points of one series look alike, as do the batches of one contender; the first of them has the name.
    """
    known: dict[str, int] = {}
    for row in rows:
        name = group(row)
        new = name not in known
        yield row, known.setdefault(name, len(known)), name if new else None


def group(row: Mapping[str, Any]) -> str:
    """The series of a point of a sweep, else the contender, whatever its batch."""
    return str(row["point"]["series"] if row.get("point") else row["contender"])


def name_lines(axes: Axes, names: Sequence[str]) -> None:
    """Name the lines of a figure that has one for each row, the first on top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)


def legend_beside(axes: Axes) -> None:
    """The legend to the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def legend_below(figure: Figure, *panels: Axes, columns: int = 3) -> None:
    """One legend of all panels under the whole figure."""
    handles, labels = zip(*(entry for axes in panels for entry in _entries(axes)), strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _entries(axes: Axes) -> list[tuple[Any, str]]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))
