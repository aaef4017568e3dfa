"""Accuracy: what it costs in latency, and how training came to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.figures.style import Rows, canvas, colour, drawn, legend_beside, marker
from bench.page.columns import label


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points `(cost, gain)` those that no other point beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


@drawn
def accuracy_against_latency(rows: Rows) -> Figure:
    """One point a row that has an accuracy; the line is the Pareto front, above which nothing was measured."""
    shown = [row for row in rows if row.get("accuracy") is not None]
    points = [(row["latency_ms_per_clip"], 100 * row["accuracy"]) for row in shown]
    figure = canvas()
    axes = figure.subplots()
    front = pareto_front(points)
    axes.step(*zip(*front, strict=True), where="post", color="grey", ls="--", lw=1.2, label="Pareto front")
    for index, (row, point) in enumerate(zip(shown, points, strict=True)):
        axes.plot(*point, marker(index), color=colour(index), ms=9, ls="none", label=label(row))
    axes.margins(0.12)
    axes.set_xlabel("median milliseconds a clip")
    axes.set_ylabel("accuracy, %")
    legend_beside(axes)
    return figure


@drawn
def accuracy_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Validation accuracy over training, one line of `(epoch, accuracy)` a method."""
    figure = canvas()
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        epochs, accuracies = np.asarray(curve).T
        axes.plot(epochs, 100 * accuracies, marker(index) + "-", ms=5, color=colour(index), label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    legend_beside(axes)
    return figure
