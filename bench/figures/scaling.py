"""Latency and memory along a sweep, with the fitted line and what the GMACs predict."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures.style import canvas, colour, drawn, legend_below, marker
from bench.page.series import Series

AXES = {
    "tokens": "prompts a block",
    "batch": "clips a run",
    "frames": "frames a clip",
    "size": "pixels a side",
}
MEMORY = {"rss_mb": "resident, added", "activation_mb": "activations", "gpu_mb": "GPU, peak"}


@drawn
def scaling(lines: Sequence[Series]) -> Figure:
    """The series of one axis: medians (hollow), their least-squares line, and the GMACs' prediction (dashed)."""
    kinds = [key for key in MEMORY if any((row["memory"] or {}).get(key) for line in lines for row in line.rows)]
    figure = canvas(4.2)
    latency, *others = figure.subplots(1, 1 + bool(kinds), squeeze=False)[0]
    for index, line in enumerate(lines):
        medians = [row["latency_ms_median"] for row in line.rows]
        latency.plot(line.values, medians, marker(index), color=colour(index), mfc="none", ms=7, label=line.name)
        ends = [line.values[0], line.values[-1]]
        latency.plot(ends, [line.intercept + line.slope * end for end in ends], color=colour(index), lw=1.2, alpha=0.5)
        if line.predicted_ms:
            latency.plot(line.values, line.predicted_ms, "--", color=colour(index), lw=1.5)
    if any(line.predicted_ms for line in lines):
        latency.plot([], [], "--", color="black", lw=1.5, label="by GMACs")
    latency.set_ylabel("median milliseconds a run")
    for axes in others:
        _memory(axes, lines, kinds[0])
    for axes in (latency, *others):
        axes.set_xlabel(AXES[lines[0].axis])
    legend_below(figure, latency)
    return figure


def _memory(axes: Axes, lines: Sequence[Series], kind: str) -> None:
    for index, line in enumerate(lines):
        known = [(value, (row["memory"] or {}).get(kind)) for value, row in zip(line.values, line.rows, strict=True)]
        points = [point for point in known if point[1] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker(index) + "-", color=colour(index), mfc="none", ms=7, lw=1.2)
    axes.set_ylabel(f"memory ({MEMORY[kind]}), MB")
