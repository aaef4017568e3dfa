"""The report's figures as SVG text, for embedding in a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
}
STYLE |= {"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}


def latency_distribution(rows: Rows) -> str:
    """Every timed run of every contender, with median, p90 and p99 as ticks; nothing is left out."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 0.55 * len(rows)), layout="constrained")
        axes = figure.subplots()
        jitter = np.random.default_rng(0)
        for index, row in enumerate(rows):
            colour, times = _colour(index), row["times_ms"]
            axes.plot(times, index + jitter.uniform(-0.18, 0.18, len(times)), ".", color=colour, alpha=0.45, ms=5)
            for name, height in (("median", 0.42), ("p90", 0.3), ("p99", 0.3)):
                axes.vlines(row[f"latency_ms_{name}"], index - height, index + height, colour, lw=2)
        axes.set_yticks(range(len(rows)), [str(row["contender"]) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds for one clip (long tick: median; short ticks: p90 and p99)")
        return _svg(figure)


def ratio_against_gmacs(rows: Rows) -> str:
    """Measured latency ratio with its 95 % interval against what the arithmetic alone predicts (the dashed line)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for index, row in enumerate(rows):
            middle = row["latency_ratio"]
            error = [[middle - row["latency_ratio_low"]], [row["latency_ratio_high"] - middle]]
            axes.errorbar(
                row["gmacs_ratio"],
                middle,
                error,
                fmt=_marker(index),
                mfc="none",
                ms=9,
                capsize=4,
                color=_colour(index),
                label=str(row["contender"]),
            )
        axes.axline((1, 1), slope=1, ls="--", lw=1, color="grey")
        axes.set_xlabel("GMAC ratio to the baseline")
        axes.set_ylabel("latency ratio to the baseline")
        _legend(axes)
        return _svg(figure)


def accuracy_against_latency(rows: Rows, name: str = "contender") -> str:
    """One point a row that has an accuracy; `name` is the key of its label."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for index, row in enumerate(rows):
            if row.get("accuracy") is not None:
                place = (row["latency_ms_median"], 100 * row["accuracy"])
                axes.plot(*place, _marker(index), color=_colour(index), ms=9, label=str(row[name]))
        axes.set_xlabel("median milliseconds for one clip")
        axes.set_ylabel("accuracy, %")
        _legend(axes)
        return _svg(figure)


def accuracy_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Validation accuracy over training, one line of `(epoch, accuracy)` a method."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for index, (name, curve) in enumerate(curves.items()):
            epochs, accuracies = np.asarray(curve).T
            axes.plot(epochs, 100 * accuracies, color=_colour(index), label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy, %")
        _legend(axes)
        return _svg(figure)


def grouped_bars(values: Mapping[str, Mapping[str, float]], what: str) -> str:
    """One group of bars a key, one colour a key of the inner mappings; `what` is measured, with its unit."""
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.9 * len(values)), layout="constrained")
        axes = figure.subplots()
        thickness = 0.8 / max(len(names), 1)
        for index, name in enumerate(names):
            places = [place + (index - (len(names) - 1) / 2) * thickness for place in range(len(values))]
            lengths = [group.get(name, 0.0) for group in values.values()]
            axes.barh(places, lengths, thickness, color=_colour(index), label=name)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.set_xlabel(what)
        _legend(axes)
        return _svg(figure)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    """Moves on by one more with each round of the colours, so that no two rows look alike."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]  # the XML prologue has no place inside a page
