"""The pictures of many runs: accuracy over a grid with the loss curves, and accuracy against trained parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from train.plots import save_figure

MARKERS = "osD^vP*Xph<>"

Rows = Sequence[Mapping[str, Any]]


def save_sweep(rows: Rows, title: str, path: Path) -> None:
    """Accuracy over the first setting of the grid, mean and spread over seeds, beside the training loss of every point.

    Args:
        rows: of `train.sweep`. Points that differ in their other settings lie on lines of their own.
        title: above the figure.
        path: of the PNG.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    first = next(iter(rows[0]["settings"]))
    places = list(dict.fromkeys(str(row["settings"][first]) for row in rows))  # evenly spaced: 0 has no place on a log
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(_label(row["settings"], {first}), []).append(row)
    for number, (label, points) in enumerate(lines.items()):
        done = [point for point in points if point["accuracy"] is not None]
        accuracy.errorbar(
            [places.index(str(point["settings"][first])) for point in done],
            [100 * point["accuracy"] for point in done],
            [100 * (point["accuracy_spread"] or 0.0) for point in done],
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
            label=label,
        )
    accuracy.set_xticks(range(len(places)), places)
    accuracy.set(xlabel=first, ylabel="held-out accuracy, %")
    for row in rows:
        curve = row["loss_curve"]
        loss.plot(range(1, len(curve) + 1), curve, label=_label(row["settings"], set()))
    loss.set(xlabel="epoch", ylabel="training loss")
    for axes, shown in ((accuracy, len(lines) > 1), (loss, True)):
        _finish(axes, shown)
    figure.suptitle(title)
    save_figure(figure, path)


def save_league(rows: Rows, title: str, path: Path) -> None:
    """Held-out accuracy, mean and spread over seeds, against the trained parameters on a logarithmic axis."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(rows):
        if row["accuracy"] is not None:
            axes.errorbar(
                row["trainable_parameters"],
                100 * row["accuracy"],
                100 * (row["accuracy_spread"] or 0.0),
                marker=MARKERS[number % len(MARKERS)],
                linestyle="none",
                capsize=3,
                label=row["method"],
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(xlabel="trained parameters, head included", ylabel="held-out accuracy, %", title=title)
    _finish(axes, True)
    save_figure(figure, path)


def _label(settings: Mapping[str, Any], without: set[str]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items() if key not in without)


def _finish(axes: Axes, legend: bool) -> None:
    axes.grid(alpha=0.3)
    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small")
