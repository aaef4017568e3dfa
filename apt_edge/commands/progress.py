"""One line on the terminal that tells how far a long command is."""

from __future__ import annotations

import sys
import time

CLEAR = "\r\x1b[K"


class Progress:
    """How many of `total` things are done, at which pace, and how long the rest takes; silent without a terminal.

    Args:
        total: of the things.
        what: they are, in the plural.
    """

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._start = total, what, time.monotonic()
        self._shown = total > 1 and sys.stderr.isatty()

    def clear(self) -> None:
        """Take the line away: something else is printed."""
        if self._shown:
            print(end=CLEAR, file=sys.stderr, flush=True)

    def show(self, done: int, failed: int) -> None:
        """Show the line."""
        if not self._shown:
            return
        pace = done / max(time.monotonic() - self._start, 1e-9)
        left = (self._total - done) / pace
        text = f"{done}/{self._total} {self._what}, {pace:.3g}/s, {left:.0f} s left"
        print(end=f"{CLEAR}{text}{f', {failed} failed' if failed else ''}", file=sys.stderr, flush=True)
