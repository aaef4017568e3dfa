"""Videos -> labels of every task of a model, with the time of each stage.

Shapes: T frames, S size, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from apt_edge.runtime import memory
from apt_edge.runtime.runner import TaskRunner
from apt_edge.video.decode import read_frames
from apt_edge.video.lists import Item
from apt_edge.video.load import span
from apt_edge.video.sampling import test_indices
from apt_edge.video.views import Views, crops_of

STAGES = ("decode", "preprocess", "inference")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """What one task says of one video.

    Attributes:
        task: its name.
        labels, probabilities: the likeliest classes first.
        milliseconds: wall time of `decode`, `preprocess` and `inference` of all views and all tasks together.
    """

    task: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    milliseconds: dict[str, float]


class Predictor:
    """Runs a model with its tasks on videos, one after another; no more than one clip is held in memory.

    Args:
        runner: the model with its tasks.
        views: how often a video is looked at; probabilities are averaged.

    Raises:
        ConfigError: clips of this model have no such views.
    """

    def __init__(self, runner: TaskRunner, views: Views | None = None) -> None:
        self.runner, self.views = runner, views or Views()
        self.views.check(runner.model.clip)

    def predict(self, video: Item | str | Path, top: int = 5) -> list[Prediction]:
        """The `top` likeliest labels of a video, or of the segment that an item names, in each task.

        Raises:
            VideoError: the video cannot be read.
            ModelError: the model does not take its own clips.
        """
        try:
            return self._predict(video, top)
        finally:
            memory.give_back()

    def _predict(self, video: Item | str | Path, top: int) -> list[Prediction]:
        clip, spent = self.runner.model.clip, dict.fromkeys(STAGES, 0.0)
        sums = {name: np.zeros(len(labels)) for name, labels in self.runner.tasks.items()}
        path, first, count = _timed(spent, "decode", partial(span, video))
        for indices in first + test_indices(count, clip, self.views.clips):
            for frames_TSSC in self._crops(path, indices, spent):
                logits = _timed(spent, "inference", partial(self.runner.logits, frames_TSSC))
                for name, logits_K in logits.items():
                    sums[name] += softmax(logits_K)
        looks = self.views.clips * self.views.crops
        return [self._prediction(name, total_K / looks, top, spent) for name, total_K in sums.items()]

    def _crops(self, path: Path, indices: np.ndarray, spent: dict[str, float]) -> list[np.ndarray]:
        clip = self.runner.model.clip
        frames_THWC = _timed(spent, "decode", partial(read_frames, path, indices))
        return _timed(spent, "preprocess", partial(crops_of, frames_THWC, clip, self.views.crops))

    def _prediction(self, name: str, probabilities_K: np.ndarray, top: int, spent: dict[str, float]) -> Prediction:
        order, labels = np.argsort(-probabilities_K, kind="stable")[:top], self.runner.tasks[name]
        return Prediction(
            name, tuple(labels[i] for i in order), tuple(float(probabilities_K[i]) for i in order), dict(spent)
        )


def softmax(logits_K: np.ndarray) -> np.ndarray:
    """Class probabilities `[K]`, float64."""
    exponentials = np.exp(logits_K.astype(np.float64) - logits_K.max())
    return exponentials / exponentials.sum()


def _timed(spent: dict[str, float], stage: str, work: Callable[[], Result]) -> Result:
    """What `work` gives; its wall time is added to a stage's."""
    begin = time.perf_counter()
    result = work()
    spent[stage] += 1e3 * (time.perf_counter() - begin)
    return result
