"""Measured latency ratios against what the arithmetic alone predicts."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.figures.style import Rows, canvas, colour, drawn, legend_beside, looks, marker


@drawn
def ratio_against_gmacs(rows: Rows) -> Figure:
    """Latency ratio against the GMAC ratio, with its 95 % interval where rows are paired; dashed: equal ratios."""
    figure = canvas(4.5)
    axes = figure.subplots()
    for row, index, name in looks(rows):
        middle = row["latency_ratio"]
        low, high = row["latency_ratio_low"], row["latency_ratio_high"]
        axes.errorbar(
            row["gmacs_ratio"],
            middle,
            None if low is None else [[middle - low], [high - middle]],
            fmt=marker(index),
            mfc="none",
            ms=9,
            capsize=4,
            color=colour(index),
            label=name,
        )
    axes.axline((1, 1), slope=1, ls="--", lw=1, color="grey")
    axes.set_xlabel("GMAC ratio to the baseline")
    axes.set_ylabel("latency ratio to the baseline")
    legend_beside(axes)
    return figure
