"""The pictures of a run: its curves, its confusions and its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from apt_edge.files import as_text, atomic
from train.engine.runlog import EpochRecord

ENDS = 20  # classes at either end of the ranking


def save_curves(history: Sequence[EpochRecord], title: str, path: Path) -> None:
    """Loss and accuracy over the epochs as PNG."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    validated = [record for record in history if record.val_loss is not None and record.val_accuracy is not None]
    marks = [record.epoch for record in validated]
    loss.plot(epochs, [record.loss for record in history], label="training, smoothed labels")
    loss.plot(marks, [record.val_loss or 0.0 for record in validated], "o-", markersize=3, label="validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    accuracy.plot(epochs, [100 * record.accuracy for record in history], label="training")
    accuracy.plot(
        marks, [100 * (record.val_accuracy or 0.0) for record in validated], "o-", markersize=3, label="validation"
    )
    accuracy.set(xlabel="epoch", ylabel="top-1 accuracy, %", ylim=(0, 100))
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    save_figure(figure, path)


def save_confusion(confusion_KK: np.ndarray, labels: Sequence[str], path: Path) -> None:
    """Confusion matrix as PNG: rows are true classes, columns predictions, each row in parts of its clips."""
    classes = len(labels)
    names = [fitting(label, 30) for label in labels] if classes <= 60 else []  # more names cannot be read
    side = min(20.0, 1.5 + max(2.5, 0.3 * classes) + 0.09 * max(map(len, names), default=0))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share_KK, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, shrink=0.7, label="part of the class's clips")
    axes.set(xlabel="predicted", ylabel="true")
    if names:
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    save_figure(figure, path)


def save_per_class(accuracy: Mapping[str, float], path: Path) -> None:
    """Accuracy of every class as PNG, the weakest on top; of many classes only the weakest and the strongest."""
    ranked = sorted(accuracy.items(), key=lambda pair: pair[1])
    left_out = len(ranked) - 2 * ENDS
    if left_out > 0:
        ranked = [*ranked[:ENDS], (f"({left_out} classes between)", float("nan")), *ranked[-ENDS:]]
    figure = Figure(figsize=(8, max(3.0, 1.2 + 0.24 * len(ranked))), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(ranked)), [100 * part for _, part in ranked])
    mean = 100 * sum(accuracy.values()) / len(accuracy)
    axes.axvline(mean, color="black", linestyle="--")
    axes.set_yticks(range(len(ranked)), [fitting(name, 50) for name, _ in ranked])
    axes.set(title=f"mean {mean:.1f} %", xlabel="top-1 accuracy, %", xlim=(0, 100), ylim=(len(ranked) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def fitting(name: str, letters: int) -> str:
    """A name for a picture, without its middle where it has more than so many letters: both its ends tell it apart."""
    name = " ".join(as_text(name).split())
    if len(name) > letters:
        name = f"{name[: letters * 2 // 3].rstrip()} … {name[-(letters // 3) :].lstrip()}"
    return name.replace("$", r"\$")  # else what stands between two of them is mathematics


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
