"""The two pictures of a run: its curves and its confusions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from apt_edge.files import atomic
from train.engine.loop import EpochRecord


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
    side = min(20.0, max(4.0, 1.5 + 0.3 * classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share_KK, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, shrink=0.7, label="part of the class's clips")
    axes.set(xlabel="predicted", ylabel="true")
    if classes <= 60:  # more names cannot be read
        axes.set_xticks(range(classes), labels, rotation=90)
        axes.set_yticks(range(classes), labels)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
