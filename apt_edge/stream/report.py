"""How a stream is doing: one line on a terminal while it runs, and the numbers at its end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np

from apt_edge.runtime.statistics import percentile

REMEMBERED = 1 << 16  # windows: nine hours of two a second
LATELY = 1024  # windows: of the live line, which is soon sorted
OFTEN = 0.25  # seconds between two live lines
CLEAR = "\r\x1b[K"


class Recent:
    """The last `REMEMBERED` numbers: a stream that never ends needs no more memory."""

    def __init__(self) -> None:
        self._values = np.full(REMEMBERED, np.nan)  # all of its memory now, not bit by bit
        self._count = 0

    def add(self, value: float) -> None:
        """Take the next one."""
        self._values[self._count % REMEMBERED] = value
        self._count += 1

    def percentile(self, p: float, last: int = REMEMBERED) -> float | None:
        """See `statistics.percentile`, of the `last` numbers; None of nothing."""
        first = max(0, self._count - min(last, REMEMBERED))
        taken = np.take(self._values, np.arange(first, self._count), mode="wrap")
        return percentile(taken, p) if self._count else None


class LiveLine:
    """A line on a terminal that is written over; nothing where `out` is none, or has gone."""

    def __init__(self, out: TextIO | None) -> None:
        self._out = out if out is not None and out.isatty() else None
        self._next = float("-inf")

    def show(
        self, now: float, numbers: Callable[[], Mapping[str, Any]], labels: Mapping[str, tuple[str, float]]
    ) -> None:
        """Show what `Stream.numbers` gives and the likeliest label of each task, a few times a second."""
        if self._out is None or now < self._next:
            return
        self._next = now + OFTEN
        likeliest = ", ".join(f"{label} {probability:.0%}" for label, probability in labels.values())
        width = shutil.get_terminal_size().columns - 1
        self._print(f"{CLEAR}{f'{likeliest} | {in_words(numbers())}'[:width]}")

    def clear(self) -> None:
        """Take the line away."""
        if self._out is not None:
            self._print(CLEAR)

    def _print(self, text: str) -> None:
        try:
            print(end=text, file=self._out, flush=True)
        except OSError:
            self._out = None  # what happens is told elsewhere


def in_words(numbers: Mapping[str, Any]) -> str:
    """The numbers of `Stream.numbers` for people."""
    parts = [f"{numbers['frames']} frames", f"{numbers['run']} of {numbers['windows']} windows"]
    if numbers["staleness_p50"] is not None:
        parts.append(f"staleness p50 {1e3 * numbers['staleness_p50']:.1f} ms, p99 {1e3 * numbers['staleness_p99']:.1f}")
        parts.append(f"a run {1e3 * numbers['run_p50']:.1f} ms")
    parts.append(f"dropped {numbers['dropped']}")
    if numbers["late"] is not None:
        parts.append(f"late {numbers['late']}")
    if numbers["reuse"] is not None:
        parts.append(f"reuse {numbers['reuse']:.0%}")
    return ", ".join(parts)


def sentence(entry: Mapping[str, Any]) -> str:
    """An event of `events.py` for people."""
    event = entry["event"]
    if event in ("start", "end"):
        verb = "begins" if event == "start" else "ends"
        why = f", {entry['because']}" if event == "end" and entry["because"] != "off" else ""
        said = f"{entry['task']}: {entry['label']} {verb} ({entry['probability']:.0%}{why})"
        return f"{entry['seconds']:9.2f} s  {said}"
    if event == "window":
        likeliest = ", ".join(
            f"{task}: {row['label']} {row['probability']:.0%}" for task, row in entry["tasks"].items()
        )
        return f"{entry['seconds']:9.2f} s  {likeliest}"
    facts = {key: value for key, value in entry.items() if key not in ("event", "time")}
    if event == "summary":
        return f"{in_words(facts)}; {facts['lost']} times lost, ended by {facts['ended']}"
    return f"{event}: " + ", ".join(f"{key} {value}" for key, value in facts.items())
