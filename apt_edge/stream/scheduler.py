"""Which window runs next: always the newest. One may wait, never two: work that cannot be done in time is not kept."""

from __future__ import annotations

from collections import deque

from apt_edge.stream.ring import Window

REMEMBERED = 8  # runs: the shortest of them is what a run takes when nothing disturbs it


class Scheduler:
    """The one window that waits, and what became of all.

    After every window that ran, `offered == run + dropped`, plus one while a window waits.

    Args:
        deadline: seconds from a window's newest frame to its result. A window that had to wait for another run is
            dropped when its result would come later. One that need not wait runs in any case, or nothing would run on a
            device that cannot keep the deadline; its result is counted as `late` when it is.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._waiting: Window | None = None
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._began = self._free_since = float("-inf")
        self.offered = self.run = self.dropped = self.late = 0

    @property
    def waits(self) -> bool:
        """Whether a window waits."""
        return self._waiting is not None

    def offer(self, window: Window) -> None:
        """A window is complete: it takes the place of the one that waits."""
        self.forget()
        self.offered += 1
        self._waiting = window

    def forget(self) -> None:
        """Drop the window that waits."""
        self.dropped += self._waiting is not None
        self._waiting = None

    def end(self) -> None:
        """Drop all windows that were not finished: no more will run."""
        self._waiting = None
        self.dropped = self.offered - self.run

    def take(self, now: float) -> Window | None:
        """The window to run now, if any; `finished` or `end` has to follow."""
        window = self._waiting
        if window is None:
            return None
        had_to_wait = window.captured <= self._free_since
        if self.deadline is not None and had_to_wait:
            shortest = min(self._durations, default=0.0)
            if now - window.captured + shortest > self.deadline:
                self.forget()
                return None
        self._waiting = None
        self._began = now
        return window

    def finished(self, window: Window, now: float) -> float:
        """Count the window that was taken last; returns its staleness, seconds from its newest frame to its result."""
        self.run += 1
        self._durations.append(now - self._began)
        self._free_since = now
        staleness = now - window.captured
        self.late += self.deadline is not None and staleness > self.deadline
        return staleness
