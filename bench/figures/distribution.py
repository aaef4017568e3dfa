"""How the runs of a contender spread: all of them as dots, and the percentiles beside the median."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from bench.figures.style import (
    Rows,
    canvas,
    colour,
    drawn,
    legend_beside,
    list_height,
    looks,
    marker,
    name_lines,
)
from bench.page.columns import label

PERCENTILES = {
    "p50": "latency_ms_median",
    "p90": "latency_ms_p90",
    "p95": "latency_ms_p95",
    "p99": "latency_ms_p99",
    "max": "latency_ms_max",
}
VECTOR_DOTS = 2000  # more dots than these are stored as pixels: the page would be many megabytes otherwise


@drawn
def every_run(rows: Rows) -> Figure:
    """Every timed run of every contender, with median, p90 and p99 as ticks; nothing is left out."""
    figure = canvas(list_height(len(rows)))
    axes = figure.subplots()
    jitter = np.random.default_rng(0)
    many = sum(len(row["times_ms"]) for row in rows) > VECTOR_DOTS
    for place, (row, index, _) in enumerate(looks(rows)):
        own, times = colour(index), row["times_ms"]
        heights = place + jitter.uniform(-0.18, 0.18, len(times))
        axes.plot(times, heights, ".", color=own, alpha=0.1 if many else 0.45, ms=5, rasterized=many)
        for name, height in (("median", 0.42), ("p90", 0.3), ("p99", 0.3)):
            axes.vlines(row[f"latency_ms_{name}"], place - height, place + height, "black", lw=1.6, zorder=3)
    name_lines(axes, [label(row) for row in rows])
    axes.set_xlabel("ms a run (long tick: median, short: p90 and p99)")
    return figure


@drawn
def percentiles(rows: Rows) -> Figure:
    """p50, p90, p95, p99 and the slowest run of every contender, in units of its own median."""
    figure = canvas()
    axes = figure.subplots()
    for row, index, name in looks(rows):
        heights = [row[key] / row["latency_ms_median"] for key in PERCENTILES.values()]
        axes.plot(heights, marker(index) + "-", color=colour(index), mfc="none", ms=7, lw=1.2, label=name)
    axes.set_xticks(range(len(PERCENTILES)), list(PERCENTILES))
    axes.set_xlabel("percentile of the runs")
    axes.set_ylabel("time over the contender's median")
    legend_beside(axes)
    return figure
