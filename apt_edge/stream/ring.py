"""The newest frames of a stream, as a model sees them: no more than the next window can need.

Shapes: S model input size, C colour (3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apt_edge.stream.windows import Windows


class Window(NamedTuple):
    """Frames that are complete.

    Attributes:
        numbers: [T] of the frames, counted from the stream's first.
        pictures: [T] uint8 [S, S, 3] each, shared with other windows: to be read alone.
        captured: time of the newest frame, by the stream's clock.
        seconds: from the stream's beginning to the newest frame.
    """

    numbers: tuple[int, ...]
    pictures: tuple[np.ndarray, ...]
    captured: float
    seconds: float


class Ring:
    """Preprocessed frames since the last gap; for one thread."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._kept: dict[int, np.ndarray] = {}
        self._first = self.count = 0

    def restart(self) -> None:
        """Forget all frames: no window may have frames from both sides of a gap."""
        self._kept.clear()
        self._first = self.count

    def wants(self) -> bool:
        """Whether the next frame is one that a window has."""
        return self._windows.uses(self.count - self._first)

    def push(self, picture_SSC: np.ndarray | None, captured: float, seconds: float) -> Window | None:
        """Count a frame, keep it if it is given, and return the window that is complete with it."""
        number, self.count = self.count, self.count + 1
        if picture_SSC is None:
            return None
        self._kept[number] = picture_SSC
        while (oldest := next(iter(self._kept))) < number - self._windows.last:
            del self._kept[oldest]
        if not self._windows.completes(number - self._first):
            return None
        numbers = self._windows.numbers(number)
        return Window(numbers, tuple(self._kept[n] for n in numbers), captured, seconds)

    def __len__(self) -> int:
        return len(self._kept)
