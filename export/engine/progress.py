"""Progress of a build on stderr, and a build that can be interrupted."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 2.0  # between two lines


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets; KeyboardInterrupt is raised at the end of the block.

    TensorRT swallows an exception that reaches it through a logger or a monitor, and builds on.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


def make_monitor(trt: Any, interrupted: threading.Event) -> Any:
    """A progress monitor that prints a line every few seconds and ends the build once `interrupted` is set.

    None for a version without progress monitors. TensorRT-RTX builds to the end, which is a matter of seconds.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None
    cancels = trt.__name__ == "tensorrt"

    class Monitor(trt.IProgressMonitor):
        """Steps of each phase that is under way."""

        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.due = time.monotonic() + SECONDS

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() >= self.due:
                print(f"{phase_name}: {step + 1} of {self.steps.get(phase_name, '?')}", file=sys.stderr, flush=True)
                self.due = time.monotonic() + SECONDS
            return not (cancels and interrupted.is_set())

    return Monitor()
