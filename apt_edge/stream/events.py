"""What happened in a stream, one JSON object a line.

| event | says |
|---|---|
| `begin` | the source, the tasks, span and hop of the windows |
| `start`, `end` | a label of a task begins or ends; `because` says why it ends |
| `window` | the likeliest label of every task after a window, if asked for |
| `lost`, `reconnected`, `gap`, `size` | the connection broke, is back, skipped frames, changed its frame size |
| `dropped` | windows that were not run, since the last such line |
| `failed` | a place where events go takes no more; the others go on |
| `summary` | everything counted, last |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from apt_edge.stream.clock import Clock

Sink = Callable[[Mapping[str, Any]], None]


class Events:
    """Writes events as they happen, for one thread.

    Args:
        clock: of the stream; stopped when no sink is left of those that there were.
        sinks: name to what gets every event. One that fails gets no more.
        hear: gets every event as well, and cannot fail.

    Attributes:
        counts: event to how many there were.
        errors: name of a sink to why it failed.
    """

    def __init__(self, clock: Clock, sinks: Mapping[str, Sink], hear: Sink | None = None) -> None:
        self._clock, self._sinks, self._hear = clock, dict(sinks), hear
        self.counts: dict[str, int] = {}
        self.errors: dict[str, OSError] = {}

    def write(self, event: str, captured: float | None = None, **facts: Any) -> None:
        """Write one event, of now or of the time `captured` on the stream's clock."""
        ago = 0.0 if captured is None else self._clock.now() - captured
        time = datetime.fromtimestamp(self._clock.wall() - ago, timezone.utc).isoformat(timespec="milliseconds")
        entry = {"event": event, "time": time, **facts}
        self.counts[event] = self.counts.get(event, 0) + 1
        if self._hear is not None:
            self._hear(entry)
        failed: dict[str, OSError] = {}
        for name, sink in list(self._sinks.items()):
            try:
                sink(entry)
            except OSError as error:
                failed[name] = error
                del self._sinks[name]
        self.errors |= failed
        if failed and not self._sinks:
            self._clock.stop()
        for name, why in failed.items():
            if event != "summary":  # the last word; the error is told when all is closed
                self.write("failed", what=name, reason=why.strerror or str(why))


def lines(file: TextIO) -> Sink:
    """A sink that writes JSON lines."""

    def sink(entry: Mapping[str, Any]) -> None:
        file.write(json.dumps(entry) + "\n")
        file.flush()  # a device may lose its power

    return sink
