"""A clock that moves when somebody sleeps, a source by that clock, and a model in numpy that takes its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.stream.clock import Clock
from apt_edge.stream.events import Events
from apt_edge.stream.feed import Feed
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.smoothing import Smoothing
from apt_edge.stream.source import Frame, Notice
from apt_edge.stream.stream import Stream
from apt_edge.stream.windows import windows_of

SPEC = ClipSpec(frames=4, size=8, sampling="dense", stride=2)
QUICK = Smoothing(windows=1)
LABELS = ("even", "odd", "third")


class SimulatedClock(Clock):
    """Time that passes in sleep alone."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)


class NumpyRunner:
    """Logits of the sums of tubelets, and of nothing else: two frames each, or whole clips without a `tubelet`."""

    def __init__(self, tubelet: int | None = None) -> None:
        self.tubelet = tubelet
        self.tasks = {"parity": LABELS, "other": LABELS}
        self.seen: list[np.ndarray] = []

    def embed(self, frames_tSSC: np.ndarray) -> np.ndarray:
        assert len(frames_tSSC) == self.tubelet
        return frames_tSSC.reshape(1, -1).astype(np.float64)

    def logits_of(self, patches: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        return self.logits(np.concatenate(patches).astype(np.uint8).reshape(SPEC.frames, SPEC.size, SPEC.size, 3))

    def logits(self, frames_TSSC: np.ndarray) -> Mapping[str, np.ndarray]:
        self.seen.append(frames_TSSC.copy())
        number = float(frames_TSSC[:, 0, 0, 0].astype(np.float64) @ [1, 10, 100, 1000])
        return {"parity": np.array([number % 7, number % 5, number % 3]), "other": np.array([0.0, 9.0, 0.0])}


def picture(number: int) -> np.ndarray:
    """uint8 [8, 8, 3] of one level."""
    return np.full((8, 8, 3), number % 251, np.uint8)


def frames(clock: SimulatedClock, count: int, rate: float = 30) -> Iterator[Frame]:
    """`count` frames at `rate` frames a second."""
    begin = clock.now()
    for n in range(count):
        clock.sleep(begin + n / rate - clock.now())
        yield Frame(clock.now(), n / rate, partial(picture, n))


class SlowRunner(NumpyRunner):
    """A model that takes `seconds`, while the source goes on."""

    def __init__(self, clock: SimulatedClock, seconds: float, rate: float = 30) -> None:
        super().__init__()
        self._clock, self._seconds, self._rate = clock, seconds, rate
        self.feed: Feed

    def logits(self, frames_TSSC: np.ndarray) -> Mapping[str, np.ndarray]:
        end = self._clock.now() + self._seconds
        while not self.feed.ended and self.feed.frames / self._rate < end:
            self.feed.wait()
        self._clock.time = end
        return super().logits(frames_TSSC)


def stream_of(
    items: Iterator[Frame | Notice],
    runner: NumpyRunner,
    clock: Clock,
    hop: int = 2,
    deadline: float | None = None,
    smoothing: Smoothing = QUICK,
    **settings: object,
) -> tuple[Stream, list[dict]]:
    """A stream, decoded in line, and the events that it will write."""
    written: list[dict] = []
    windows, scheduler = windows_of(SPEC, hop), Scheduler(deadline)
    feed = Feed(items, SPEC, windows, scheduler, clock)
    runner.feed = feed
    events = Events(clock, {"list": lambda entry: written.append(dict(entry))})
    return Stream(runner, feed, scheduler, windows.hop, smoothing, events, clock, True, **settings), written
