"""What happened in a stream, one JSON object a line.

| event | says |
|---|---|
| `begin` | the source, the tasks, span and hop of the windows |
| `start`, `end` | a label of a task begins or ends; `because` says why it ends |
| `window` | the likeliest label of every task after a window, if asked for |
| `lost`, `reconnected`, `gap`, `size` | the connection broke, is back, skipped frames, changed its frame size |
| `dropped` | windows that were not run, since the last such line |
| `summary` | everything counted, last |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from apt_edge.stream.clock import Clock


class Events:
    """Writes events as they happen, for one thread.

    Args:
        clock: of the stream.
        file: gets JSON lines.
        show: gets every event as well.

    Attributes:
        counts: event to how many there were.
    """

    def __init__(
        self, clock: Clock, file: TextIO | None = None, show: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        self._clock, self._file, self._show = clock, file, show
        self.counts: dict[str, int] = {}

    def write(self, event: str, captured: float | None = None, **facts: Any) -> None:
        """Write one event, of now or of the time `captured` on the stream's clock."""
        ago = 0.0 if captured is None else self._clock.now() - captured
        time = datetime.fromtimestamp(self._clock.wall() - ago, timezone.utc).isoformat(timespec="milliseconds")
        entry = {"event": event, "time": time, **facts}
        self.counts[event] = self.counts.get(event, 0) + 1
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()  # a device may lose its power
        if self._show is not None:
            self._show(entry)
