"""From a source to the window that runs next: decoding and preprocessing, in a thread of their own or in line.

What passes between the threads is bounded: one window, and a few notices, for which the decoding thread waits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.stream.clock import Clock
from apt_edge.stream.ring import Ring, Window
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.source import Frame, Notice
from apt_edge.stream.windows import Windows
from apt_edge.video.preprocess import short_side_crop

NOTICES = 64
BEHIND = 1.0  # seconds from a frame's coming to its turn, from which on what nobody needs is left out
WAIT = 0.1  # seconds: so soon does the main thread look whether the stream was stopped


class Writer(Protocol):
    """What is shown every frame: `apt_edge.stream.annotate.Annotated`."""

    def write(self, picture_HWC: np.ndarray, seconds: float) -> None:
        """Take the next picture."""
        ...


class Feed:
    """Windows of a source.

    Args:
        items: of the source.
        spec: the model's clip.
        windows: which frames make one.
        scheduler: of this feed alone.
        clock: the source's.
        writer: sees all frames, but for those that are late: it must not make the windows later still.
        patience: seconds without a frame after which the source is lost, although it says nothing, until one comes: a
            camera's driver may never return. Seen only where the decoding has a thread.

    Attributes:
        ended: no frame will come any more.
        error: why, when it is not the source's end.
        frames: so far.
    """

    def __init__(
        self,
        items: Iterator[Frame | Notice],
        spec: ClipSpec,
        windows: Windows,
        scheduler: Scheduler,
        clock: Clock,
        writer: Writer | None = None,
        patience: float = math.inf,
    ) -> None:
        self._items, self._spec, self._clock, self._writer = items, spec, clock, writer
        self._ring, self._scheduler = Ring(windows), scheduler
        self._notices: list[Notice] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._patience, self._heard, self._lost, self._silent = patience, clock.now(), False, False
        self.ended = False
        self.error: Exception | None = None

    @property
    def frames(self) -> int:
        """Frames so far."""
        return self._ring.count

    def start(self) -> None:
        """Decode in a thread from now on; without it every `wait` decodes one frame."""
        self._thread = threading.Thread(target=self._pump, name="decode", daemon=True)  # a driver may never return
        self._thread.start()

    def take(self) -> tuple[list[Notice], Window | None]:
        """What happened since the last call, and the window to run now."""
        with self._changed:
            notices, self._notices = self._notices, []
            self._changed.notify_all()
            return notices, self._scheduler.take(self._clock.now())

    def finished(self, window: Window) -> float:
        """See `Scheduler.finished`."""
        with self._changed:
            return self._scheduler.finished(window, self._clock.now())

    def wait(self) -> None:
        """Return when there may be something to take."""
        if self._thread is None:
            self._pull()
            return
        with self._changed:
            if not (self.ended or self._notices or self._scheduler.waits):
                self._changed.wait(WAIT)
            if not (self.ended or self._lost) and self._clock.now() - self._heard > self._patience:
                self._lost = self._silent = True
                self._scheduler.forget()
                self._notices.append(Notice("lost", {"reason": f"no frame for {self._patience:g} s"}))

    def join(self, seconds: float) -> bool:
        """Wait for the thread; returns whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _pump(self) -> None:
        while not self.ended:
            self._pull()

    def _pull(self) -> None:
        """Accept one item of the source."""
        try:
            item = None if self._clock.stopped else next(self._items, None)
            if isinstance(item, Frame):
                self._hear()
                self._frame(item)
            elif item is not None:
                self._notice(item)
            ended = item is None
        except Exception as error:  # of the decoding thread: raised where the stream is ended in order
            self.error, ended = error, True
        with self._changed:
            self.ended = ended
            self._changed.notify_all()

    def _hear(self) -> None:
        """A frame has come."""
        with self._changed:
            since, self._heard = self._heard, self._clock.now()
            silent, self._lost, self._silent = self._silent, False, False
        if silent:
            self._ring.restart()
            self._notice(
                Notice("reconnected", {"after": round(self._heard - since - self._patience, 3), "attempts": 0})
            )

    def _frame(self, frame: Frame) -> None:
        wanted = self._ring.wants()
        writer = self._writer if self._clock.now() - frame.captured < BEHIND else None
        picture = frame.picture() if wanted or writer else None
        if picture is not None and writer:
            writer.write(picture, frame.seconds)
        seen = short_side_crop(picture[None], self._spec)[0] if picture is not None and wanted else None
        window = self._ring.push(seen, frame.captured, frame.seconds)
        if window is not None:
            with self._changed:
                self._scheduler.offer(window)

    def _notice(self, notice: Notice) -> None:
        with self._changed:
            if notice.event in ("lost", "gap"):
                self._ring.restart()
                self._scheduler.forget()
            if notice.event == "lost":
                self._lost = True
                if self._silent:  # told already: the source sees it now, and will tell that it is back
                    self._silent = False
                    return
            while len(self._notices) >= NOTICES and not self._clock.stopped:
                self._changed.wait(WAIT)
            self._notices.append(notice)
