"""From the logits of windows to labels that do not flicker: a moving average, and two thresholds.

Shapes: K classes.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from apt_edge.errors import ConfigError, ModelError
from apt_edge.runtime.predictor import softmax


class Change(NamedTuple):
    """A label that begins, or ends, and its averaged probability."""

    label: str
    begins: bool
    probability: float


class Smoothing(NamedTuple):
    """How labels are smoothed.

    Attributes:
        on: a label begins when the mean probability is this or more.
        off: and ends when it is less than this.
        windows: the mean is that of so many windows, or of those that there are since the last gap.
    """

    on: float = 0.6
    off: float = 0.4
    windows: int = 4

    def check(self) -> None:
        """Raise ConfigError unless 0 <= off <= on <= 1 and there is a window."""
        if not 0 <= self.off <= self.on <= 1:
            raise ConfigError(
                "a label begins at a probability from 0 to 1, and ends below one that is not higher",
                found=f"on at {self.on:g}, off below {self.off:g}",
                fix="use for example --on 0.6 --off 0.4",
            )
        if self.windows < 1:
            raise ConfigError("a mean needs a window", found=f"{self.windows} windows", fix="use --smooth 1 or more")


class Smoother:
    """The labels of one task."""

    def __init__(self, labels: tuple[str, ...], smoothing: Smoothing) -> None:
        smoothing.check()
        self._labels, self._smoothing = labels, smoothing
        self._recent: deque[np.ndarray] = deque(maxlen=smoothing.windows)
        self._on = np.zeros(len(labels), dtype=bool)
        self._mean_K = np.zeros(len(labels))

    def update(self, logits_K: np.ndarray) -> list[Change]:
        """Take the next window; returns what ends with it, and what begins.

        Raises:
            ModelError: the logits are no numbers.
        """
        self._recent.append(probabilities(logits_K))
        self._mean_K = np.mean(self._recent, axis=0)
        before = self._on
        self._on = np.where(before, self._mean_K >= self._smoothing.off, self._mean_K >= self._smoothing.on)
        return [self._change(k) for k in np.flatnonzero(before & ~self._on).tolist()] + [
            self._change(k) for k in np.flatnonzero(self._on & ~before).tolist()
        ]

    def reset(self) -> list[Change]:
        """Forget all windows; returns the labels that end."""
        ended, self._on = np.flatnonzero(self._on), np.zeros_like(self._on)
        self._recent.clear()
        return [self._change(k) for k in ended.tolist()]

    @property
    def top(self) -> tuple[str, float]:
        """The label with the highest mean, and the mean."""
        k = int(self._mean_K.argmax())
        return self._labels[k], float(self._mean_K[k])

    def _change(self, k: int) -> Change:
        return Change(self._labels[k], bool(self._on[k]), float(self._mean_K[k]))


def probabilities(logits_K: np.ndarray) -> np.ndarray:
    """Softmax in float64, [K]; raises ModelError where a logit is no number."""
    if not np.isfinite(logits_K).all():
        raise ModelError(
            "the model's logits are not all numbers",
            found=f"{int((~np.isfinite(logits_K)).sum())} of {logits_K.size} are infinite or none",
            fix="run the self-test of its bundle; export in a wider type (precision or repairs of the target)",
        )
    return softmax(logits_K)
