"""Video file -> labels, on an exported model, with the time of each stage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apt_edge.runtime.model_dir import OUTPUT, ModelDir
from apt_edge.runtime.session import Session
from apt_edge.video.load import sample_frames
from apt_edge.video.preprocess import short_side_crop


@dataclass(frozen=True)
class Prediction:
    """What a model says of one video.

    Attributes:
        video: the file.
        labels, probabilities: the likeliest classes first.
        milliseconds: wall time of `decode`, `preprocess` and `inference`.
    """

    video: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    milliseconds: dict[str, float]


class Predictor:
    """Runs one exported model on video files.

    Args:
        model: the exported model directory.
        session: the model, loaded in a runtime.

    Raises:
        ModelError: the session's inputs are not those that the sidecar describes.
    """

    def __init__(self, model: ModelDir, session: Session) -> None:
        self.model, self.session = model, session
        model.feeds(session.inputs, np.zeros((model.clip.frames, model.clip.size, model.clip.size, 3), np.uint8))

    def predict(self, video: str | Path, top: int = 5) -> Prediction:
        """The `top` likeliest labels of the video's centred clip; raises VideoError."""
        marks = [time.perf_counter()]
        frames_THWC = sample_frames(video, self.model.clip)
        marks.append(time.perf_counter())
        feeds = self.model.feeds(self.session.inputs, short_side_crop(frames_THWC, self.model.clip))
        marks.append(time.perf_counter())
        logits_K = self.session.run(feeds)[OUTPUT][0]
        marks.append(time.perf_counter())
        exponentials = np.exp(logits_K - logits_K.max())
        probabilities_K = exponentials / exponentials.sum()
        order = np.argsort(-probabilities_K)[:top]
        stages = ("decode", "preprocess", "inference")
        return Prediction(
            str(video),
            tuple(self.model.labels[i] for i in order),
            tuple(float(probabilities_K[i]) for i in order),
            {stage: 1e3 * (marks[i + 1] - marks[i]) for i, stage in enumerate(stages)},
        )
