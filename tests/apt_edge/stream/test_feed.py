"""A source that falls silent, and frames that come late."""

from __future__ import annotations

import threading
from functools import partial

from apt_edge.stream.clock import Clock
from apt_edge.stream.feed import BEHIND, Feed
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.source import Frame, Notice
from apt_edge.stream.windows import windows_of
from tests.apt_edge.stream.simulated import SPEC, SimulatedClock, picture


def test_a_source_that_falls_silent_is_lost_until_a_frame_comes():
    """A driver that does not return: nobody but the main thread can tell."""
    clock, go_on = Clock(), threading.Event()

    def items():
        for n in range(20):
            if n == 10:
                assert go_on.wait(10)
            yield Frame(clock.now(), n / 30, partial(picture, n))

    windows, scheduler = windows_of(SPEC, 1), Scheduler()
    feed, told, ends = Feed(items(), SPEC, windows, scheduler, clock, patience=0.2), [], []
    feed.start()
    while not feed.ended or feed.frames < 20 or scheduler.waits:
        notices, window = feed.take()
        told += [notice.event for notice in notices]
        if told[-1:] == ["lost"]:
            go_on.set()
        if window is not None:
            ends.append(window.numbers)
            feed.finished(window)
        feed.wait()
    told += [notice.event for notice in feed.take()[0]]
    assert feed.join(10)
    assert told == ["lost", "reconnected"]
    assert all(numbers[-1] < 10 or numbers[0] >= 10 for numbers in ends)
    assert scheduler.offered == 2 * (10 - windows.last)


def test_a_silence_that_the_source_ends_itself_is_told_once():
    clock, go_on = Clock(), threading.Event()

    def items():
        yield Frame(clock.now(), 0, partial(picture, 0))
        assert go_on.wait(10)
        yield Notice("lost", {"reason": "unplugged"})
        yield Notice("reconnected", {"after": 1.0, "attempts": 1})
        yield Frame(clock.now(), 0, partial(picture, 1))

    feed, told = Feed(items(), SPEC, windows_of(SPEC, 1), Scheduler(), clock, patience=0.1), []
    feed.start()
    while not feed.ended:
        told += [notice.event for notice in feed.take()[0]]
        if told:
            go_on.set()
        feed.wait()
    told += [notice.event for notice in feed.take()[0]]
    assert told == ["lost", "reconnected"]


def test_late_frames_are_not_written_but_seen():
    """The writer takes three frames' time: without that the windows would be later and later."""
    clock, written = SimulatedClock(), []

    class Slow:
        def write(self, picture_HWC, seconds):
            clock.sleep(0.1)
            written.append(seconds)

    def items():
        for n in range(600):
            clock.sleep(n / 30 - clock.now())
            yield Frame(n / 30, n / 30, partial(picture, n))

    windows, scheduler, ages = windows_of(SPEC, 1), Scheduler(), []
    feed = Feed(items(), SPEC, windows, scheduler, clock, Slow())
    while not feed.ended:
        if (window := feed.take()[1]) is not None:
            ages.append(feed.finished(window))
        feed.wait()
    assert len(ages) == 600 - windows.last - feed.ended + 1
    assert max(ages) < BEHIND + 0.1 + 1e-9
    assert 150 < len(written) < 300
