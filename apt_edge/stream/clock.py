"""The time of a stream, and the word that it shall end."""

from __future__ import annotations

import time

STEP = 0.05  # seconds: so soon is a stop seen by whoever sleeps


class Clock:
    """Seconds that never go back, for one stream. Without locks: a signal's handler may call `stop`."""

    def __init__(self) -> None:
        self.stopped = False

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait, or less long when the stream is stopped."""
        end = self.now() + seconds
        while not self.stopped and (left := end - self.now()) > 0:
            time.sleep(min(left, STEP))

    def stop(self) -> None:
        """End the stream: everybody who reads `stopped` finishes what is begun."""
        self.stopped = True
