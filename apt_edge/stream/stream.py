"""The loop of a stream: take the newest window, run it, smooth, tell; and end in order, whatever ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from apt_edge.stream.clock import Clock
from apt_edge.stream.connect import PATIENCE
from apt_edge.stream.embeddings import Embeddings, Runner
from apt_edge.stream.events import Events
from apt_edge.stream.feed import Feed
from apt_edge.stream.report import LATELY, REMEMBERED, Recent
from apt_edge.stream.ring import Window
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.smoothing import Change, Smoother, Smoothing
from apt_edge.stream.source import Notice

DROPPED_EVERY = 10.0  # seconds between two lines about dropped windows

Numbers = Callable[[], Mapping[str, Any]]
Shown = Callable[[float, Numbers, Mapping[str, tuple[str, float]]], None]


class Stream:
    """One stream through all tasks of a model.

    Args:
        runner: the model with its tasks.
        feed: gives the windows.
        scheduler: the feed's.
        hop: frames from window to window.
        smoothing: of the labels.
        events: gets what happens.
        clock: the feed's.
        every_window: write an event for each window.
        show: called after every window with the time, `numbers` of late and the likeliest label of each task.

    Attributes:
        joined: after `run`, whether the decoding thread has ended, so that the source may be closed.
        ended: after `run`, by what: `a stop`, `the source's end`, `a loss` or `an error`.
    """

    def __init__(
        self,
        runner: Runner,
        feed: Feed,
        scheduler: Scheduler,
        hop: int,
        smoothing: Smoothing,
        events: Events,
        clock: Clock,
        every_window: bool = False,
        show: Shown = lambda now, numbers, labels: None,
    ) -> None:
        self._feed, self._scheduler, self._events, self._clock = feed, scheduler, events, clock
        self._embeddings = Embeddings(runner, hop)
        self._smoothers = {task: Smoother(labels, smoothing) for task, labels in runner.tasks.items()}
        self._every_window, self._show = every_window, show
        self._staleness, self._runs = Recent(), Recent()
        self._seconds = 0.0
        self.joined, self.ended = False, "an error"
        self._told, self._tell_next = 0, clock.now()

    def run(self) -> Exception | None:
        """Run until the source ends or the clock is stopped; returns the error that ended the source, if one did.

        Raises:
            ModelError: a window cannot be run; the stream has ended in order then, as always.
        """
        try:
            self._loop()
            lost = self._feed.error is not None
            self.ended = "a stop" if self._clock.stopped else "a loss" if lost else "the source's end"
        finally:
            self._clock.stop()
            self.joined = self._feed.join(PATIENCE + 1)
            for notice in self._feed.take()[0]:  # that came since the loop's last look
                self._note(notice)
            self._scheduler.end()
            self._end_labels("end")
            self._tell_dropped()
            counts = {name: self._events.counts.get(name, 0) for name in ("lost", "reconnected", "gap", "size")}
            self._events.write("summary", **self.numbers(), **counts, ended=self.ended)
        return self._feed.error

    def numbers(self, last: int = REMEMBERED) -> dict[str, Any]:
        """Counts so far, and seconds: of staleness and of runs, of the `last` windows that ran."""
        scheduler, embeddings = self._scheduler, self._embeddings
        return {
            "frames": self._feed.frames,
            "windows": scheduler.offered,
            "run": scheduler.run,
            "dropped": scheduler.dropped,
            "late": scheduler.late if scheduler.deadline is not None else None,
            "staleness_p50": self._staleness.percentile(50, last),
            "staleness_p99": self._staleness.percentile(99, last),
            "run_p50": self._runs.percentile(50, last),
            "reuse": embeddings.reused / embeddings.total if embeddings.total else None,
        }

    def _loop(self) -> None:
        while not self._clock.stopped:
            ended = self._feed.ended  # before the look: what comes until then is seen
            notices, window = self._feed.take()
            for notice in notices:
                self._note(notice)
            if window is not None:
                self._process(window)
            elif ended:
                return
            else:
                self._feed.wait()

    def _process(self, window: Window) -> None:
        begin = self._clock.now()
        logits = self._embeddings.logits(window)
        self._runs.add(self._clock.now() - begin)
        staleness = self._feed.finished(window)
        self._staleness.add(staleness)
        self._seconds = window.seconds
        for task, smoother in self._smoothers.items():
            for change in smoother.update(logits[task]):
                self._label(task, change, "off", window)
        if self._every_window:
            rows = {
                task: dict(zip(("label", "probability"), s.top, strict=True)) for task, s in self._smoothers.items()
            }
            facts = {"frame": window.numbers[-1], "seconds": round(window.seconds, 3), "staleness": round(staleness, 6)}
            self._events.write("window", window.captured, **facts, tasks=rows)
        now = self._clock.now()
        if now >= self._tell_next:
            self._tell_dropped()
            self._tell_next = now + DROPPED_EVERY
        likeliest = {task: smoother.top for task, smoother in self._smoothers.items()}
        self._show(now, partial(self.numbers, LATELY), likeliest)

    def _note(self, notice: Notice) -> None:
        if notice.event in ("lost", "gap"):
            self._end_labels(notice.event)
        self._events.write(notice.event, **notice.facts)

    def _end_labels(self, because: str) -> None:
        for task, smoother in self._smoothers.items():
            for change in smoother.reset():
                self._label(task, change, because, None)

    def _label(self, task: str, change: Change, because: str, window: Window | None) -> None:
        facts: dict[str, Any] = {"task": task, "label": change.label, "probability": round(change.probability, 6)}
        facts["seconds"] = round(self._seconds, 3)
        if window is not None:
            facts["frame"] = window.numbers[-1]
        captured = window.captured if window is not None else None
        if change.begins:
            self._events.write("start", captured, **facts)
        else:
            self._events.write("end", captured, **facts, because=because)

    def _tell_dropped(self) -> None:
        if (new := self._scheduler.dropped - self._told) > 0:
            self._events.write("dropped", windows=new)
            self._told += new
