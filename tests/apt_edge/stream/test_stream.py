"""The loop under a simulated clock: the newest window runs, all others are counted, and nothing waits in line."""

from __future__ import annotations

import io
import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest

from apt_edge.errors import ConfigError, ModelError, VideoError
from apt_edge.runtime.statistics import percentile
from apt_edge.stream.clock import Clock
from apt_edge.stream.embeddings import Embeddings
from apt_edge.stream.feed import NOTICES, Feed
from apt_edge.stream.report import CLEAR, LiveLine
from apt_edge.stream.ring import Ring, Window
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.smoothing import Smoother, Smoothing
from apt_edge.stream.source import Frame, Notice
from apt_edge.stream.windows import windows_of
from tests.apt_edge.stream.simulated import (
    SPEC,
    NumpyRunner,
    SimulatedClock,
    SlowRunner,
    frames,
    picture,
    stream_of,
)


def events_of(written, *names):
    return [entry for entry in written if entry["event"] in names]


@pytest.mark.parametrize(("seconds", "hop"), [(0.7, 4), (0.21, 5), (2.0, 1), (0.05, 3)])
def test_staleness_stays_below_a_hop_and_a_run(seconds, hop):
    clock = SimulatedClock()
    runner = SlowRunner(clock, seconds)
    stream, written = stream_of(frames(clock, 3000), runner, clock, hop)
    assert stream.run() is None
    numbers = stream.numbers()
    assert numbers["windows"] == (3000 - 8) // hop + 1 == numbers["run"] + numbers["dropped"]
    slower = seconds > hop / 30
    assert (numbers["dropped"] > 0) == slower
    if slower:  # the model is never idle
        assert numbers["run"] >= 100 / max(seconds, hop / 30) * 0.9
    windows = events_of(written, "window")
    assert len(windows) == numbers["run"]
    staleness = [entry["staleness"] for entry in windows]
    assert max(staleness[:-1]) < hop / 30 + seconds + 1e-6  # after the last frame no newer window can come
    assert percentile(np.array(staleness), 99) == pytest.approx(numbers["staleness_p99"], abs=1e-6)
    if len(windows) > 100:
        assert numbers["staleness_p99"] < hop / 30 + seconds + 1e-9
    assert sum(entry["windows"] for entry in events_of(written, "dropped")) == numbers["dropped"]
    ends = [entry["frame"] for entry in windows]
    assert ends == sorted(set(ends))


def test_a_result_that_would_be_late_is_not_computed():
    """Runs take 0.20 s, windows come every 0.10 s: one that waited 0.10 s would be 0.30 s old."""
    clock = SimulatedClock()
    stream, written = stream_of(frames(clock, 600), SlowRunner(clock, 0.2), clock, hop=3, deadline=0.25)
    stream.run()
    numbers = stream.numbers()
    assert max(entry["staleness"] for entry in events_of(written, "window")) <= 0.25
    assert numbers["late"] == 0
    assert numbers["windows"] == numbers["run"] + numbers["dropped"]
    assert numbers["run"] >= 50


def test_a_deadline_that_cannot_be_kept_is_counted_and_does_not_starve():
    clock = SimulatedClock()
    stream, written = stream_of(frames(clock, 600), SlowRunner(clock, 0.2), clock, hop=3, deadline=0.1)
    stream.run()
    numbers = stream.numbers()
    assert numbers["late"] == numbers["run"] >= 50
    assert written[-1]["late"] == numbers["run"]


@pytest.mark.parametrize("hop", [1, 2, 4, 7, 8, 20])
@pytest.mark.parametrize("tubelet", [None, 2])
def test_windows_are_what_offline_windows_are(hop, tubelet):
    clock, runner = SimulatedClock(), NumpyRunner(tubelet)
    stream, _ = stream_of(frames(clock, 100), runner, clock, hop)
    stream.run()
    offsets = windows_of(SPEC, hop).offsets
    expected = [np.stack([picture(start + o) for o in offsets]) for start in range(0, 100 - offsets[-1], hop)]
    np.testing.assert_array_equal(np.stack(runner.seen), np.stack(expected))


def test_reuse_is_what_the_windows_promise_and_what_is_kept_is_bounded():
    runner = NumpyRunner(2)
    windows = windows_of(SPEC, 1)
    embeddings, ring = Embeddings(runner, windows.hop), Ring(windows)
    for n in range(500):
        if window := ring.push(picture(n), 0, 0):
            found = embeddings.logits(window)
            exact = runner.logits(np.stack(window.pictures))
            np.testing.assert_array_equal(found["parity"], exact["parity"])
        assert len(embeddings) <= windows.span
    assert embeddings.total == 2 * (500 - windows.last)
    fresh = embeddings.total - embeddings.reused
    assert fresh == pytest.approx((1 - windows.reuse(2)) * embeddings.total, abs=windows.span)


def test_a_lost_source_ends_labels_and_windows_never_span_it():
    clock = SimulatedClock()

    def items():
        yield from frames(clock, 31)
        yield Notice("lost", {"reason": "no data"})
        clock.sleep(60)
        yield Notice("reconnected", {"after": 60, "attempts": 3})
        yield from frames(clock, 31)
        yield Notice("gap", {"reason": "damaged data"})
        yield from frames(clock, 5)

    runner = NumpyRunner()
    stream, written = stream_of(items(), runner, clock, hop=3)
    assert stream.run() is None
    assert Counter(e["event"] for e in written)["lost"] == 1
    other = [e for e in events_of(written, "start", "end") if e["task"] == "other"]
    assert [(e["event"], e.get("because")) for e in other] == [
        *(("start", None), ("end", "lost")),
        *(("start", None), ("end", "gap")),
    ]
    names = [e["event"] for e in written]
    lost = names.index("lost")
    assert written[lost - 1]["event"] == "end"
    assert names[lost + 1] == "reconnected"
    for e in events_of(written, "window"):
        first = e["frame"] - windows_of(SPEC).last
        assert all(first >= gap or e["frame"] < gap for gap in (31, 62))
    summary = written[-1]
    assert (summary["event"], summary["lost"], summary["reconnected"], summary["gap"]) == ("summary", 1, 1, 1)
    assert summary["frames"] == 67


def test_every_label_that_begins_ends():
    clock = SimulatedClock()
    stream, written = stream_of(frames(clock, 400), NumpyRunner(), clock, smoothing=Smoothing(0.5, 0.3, 2))
    stream.run()
    open_labels = set()
    for entry in events_of(written, "start", "end"):
        key = (entry["task"], entry["label"])
        assert (key in open_labels) == (entry["event"] == "end")
        (open_labels.remove if entry["event"] == "end" else open_labels.add)(key)
    assert not open_labels
    assert len(events_of(written, "start")) > 20


def test_a_source_that_fails_ends_in_order_and_tells_its_error():
    clock = SimulatedClock()

    def items():
        yield from frames(clock, 20)
        raise VideoError("the camera is lost")

    stream, written = stream_of(items(), NumpyRunner(), clock)
    error = stream.run()
    assert isinstance(error, VideoError)
    assert (written[-1]["event"], written[-1]["ended"]) == ("summary", "a loss")


def test_a_model_that_gives_no_numbers_ends_in_order():
    class Broken(NumpyRunner):
        def logits(self, frames_TSSC):
            return {**super().logits(frames_TSSC), "other": np.array([0.0, np.nan, 1.0])}

    clock = SimulatedClock()
    stream, written = stream_of(frames(clock, 20), Broken(), clock)
    with pytest.raises(ModelError, match="not all numbers"):
        stream.run()
    assert (written[-1]["event"], written[-1]["ended"]) == ("summary", "an error")
    assert clock.stopped


def test_a_stop_ends_the_stream():
    clock, runner = SimulatedClock(), NumpyRunner()

    def items():
        for n, frame in enumerate(frames(clock, 1000)):
            if n == 50:
                clock.stop()
            yield frame

    stream, written = stream_of(items(), runner, clock)
    stream.run()
    assert written[-1]["ended"] == "a stop"
    assert written[-1]["frames"] <= 51


def endless(clock):
    n = 0
    while True:
        yield Frame(clock.now(), n / 30, partial(picture, n))
        if n % 10 == 9:
            yield Notice("size", {"was": "1x1", "now": "2x2"})
        n += 1


def test_with_a_thread_nothing_is_lost_and_nothing_queues_up():
    """The source is faster than any model; the notices alone hold it back."""
    clock, runner = Clock(), NumpyRunner()
    windows, scheduler = windows_of(SPEC, 1), Scheduler()
    feed = Feed(endless(clock), SPEC, windows, scheduler, clock)
    before = threading.active_count()
    feed.start()
    told = runs = 0
    while runs < 100:
        notices, window = feed.take()
        assert len(notices) <= NOTICES
        told += len(notices)
        if window is None:
            feed.wait()
            continue
        runner.logits(np.stack(window.pictures))
        assert feed.finished(window) >= 0
        runs += 1
    clock.stop()
    assert feed.join(10)
    assert threading.active_count() == before
    notices, _ = feed.take()
    assert told + len(notices) in (feed.frames // 10, (feed.frames - 1) // 10)  # stopped before the last one
    scheduler.forget()
    assert (scheduler.offered, scheduler.run) == (feed.frames - windows.last, 100)
    for seen in runner.seen:  # whole windows, never a mixture
        steps = np.diff(seen[:, 0, 0, 0].astype(int)) % 251
        assert steps.tolist() == np.diff(windows.offsets).tolist()


def test_the_decoding_thread_waits_for_its_notices_to_be_read():
    clock = Clock()
    notices = (Notice("size", {"n": n}) for n in range(10 * NOTICES))
    feed = Feed(notices, SPEC, windows_of(SPEC, 1), Scheduler(), clock)
    feed.start()
    read = []
    while not feed.ended:
        feed.wait()
        new, _ = feed.take()
        assert len(new) <= NOTICES
        read += new
    read += feed.take()[0]
    assert [notice.facts["n"] for notice in read] == list(range(10 * NOTICES))


def test_one_window_waits_and_a_forgotten_one_is_counted():
    scheduler = Scheduler()
    one, two, three = (Window((n,), (), float(n), float(n)) for n in range(3))
    assert scheduler.take(0) is None
    scheduler.offer(one)
    scheduler.offer(two)
    assert scheduler.take(2) == two
    assert scheduler.finished(two, 4) == 3
    scheduler.offer(three)
    scheduler.forget()
    assert not scheduler.waits
    assert (scheduler.offered, scheduler.run, scheduler.dropped) == (3, 1, 2)


def test_labels_begin_and_end_at_two_thresholds_of_the_mean():
    def logits(p):
        return np.log([p, 1 - p])

    smoother = Smoother(("a", "b"), Smoothing(0.7, 0.5, 2))
    changes = [smoother.update(logits(p)) for p in (0.5, 0.8, 0.8, 0.5, 0.55, 0.4, 0.1)]
    # means of a: 0.5, 0.65, 0.8, 0.65, 0.525, 0.475, 0.25
    told = [[(c.label, c.begins) for c in found] for found in changes]
    assert told == [[], [], [("a", True)], [], [], [("a", False)], [("b", True)]]
    assert smoother.top == ("b", pytest.approx(0.75))
    assert [(c.label, c.begins) for c in smoother.reset()] == [("b", False)]
    assert smoother.update(logits(0.9))[0].label == "a"  # the mean begins anew


@pytest.mark.parametrize(
    "smoothing", [Smoothing(0.3, 0.4), Smoothing(1.1, 0.4), Smoothing(0.5, -1), Smoothing(windows=0)]
)
def test_thresholds_that_make_no_sense_are_refused(smoothing):
    with pytest.raises(ConfigError):
        Smoother(("a",), smoothing)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_live_line_says_how_it_goes_and_fits_its_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    clock, out = SimulatedClock(), Terminal()
    line = LiveLine(out)
    stream, _ = stream_of(frames(clock, 300), SlowRunner(clock, 0.2), clock, hop=3, deadline=1, show=line.show)
    stream.run()
    shown = out.getvalue().split(CLEAR)[1:]
    assert 10 < len(shown) < stream.numbers()["run"]  # a few times a second
    for words in ("odd 100%", "of 98 windows, staleness p50 2", "p99 3", "dropped 4", "late 0", "a run 200.0 ms"):
        assert words in shown[-1]
    monkeypatch.setenv("COLUMNS", "40")
    line.show(1e9, stream.numbers, {"a": ("x" * 100, 1.0)})
    assert len(out.getvalue().split(CLEAR)[-1]) == 39
    line.clear()
    assert out.getvalue().endswith(CLEAR)
    silent = io.StringIO()
    LiveLine(silent).show(0, stream.numbers, {})
    assert silent.getvalue() == ""
