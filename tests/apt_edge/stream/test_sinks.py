"""What a stream writes to may fail: that alone ends, everything else in order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apt_edge.errors import AptEdgeError
from apt_edge.stream.annotate import Annotated
from apt_edge.stream.events import Events, lines
from apt_edge.stream.feed import Feed
from apt_edge.stream.report import LATELY, REMEMBERED, Recent
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.source import Notice
from apt_edge.stream.stream import Stream
from apt_edge.stream.windows import windows_of
from apt_edge.video.decode import probe
from tests.apt_edge.stream.simulated import QUICK, SPEC, NumpyRunner, SimulatedClock, frames, stream_of

PICTURE = np.full((48, 64, 3), 128, np.uint8)


class Failing:
    """Takes so many lines."""

    def __init__(self, lines):
        self.lines, self.written = lines, []

    def write(self, text):
        if len(self.written) >= self.lines:
            raise OSError(28, "No space left on device")
        self.written.append(json.loads(text))

    def flush(self):
        pass


def test_a_sink_that_fails_is_told_to_the_others_and_the_last_one_stops_the_stream():
    clock, one, two = SimulatedClock(), Failing(2), Failing(4)
    events = Events(clock, {"one": lines(one), "two": lines(two)})
    for event in ("begin", "start", "end"):
        events.write(event)
    assert [entry["event"] for entry in two.written] == ["begin", "start", "end", "failed"]
    assert two.written[-1]["what"] == "one"
    assert not clock.stopped
    events.write("end")
    assert clock.stopped
    assert {name: error.errno for name, error in events.errors.items()} == {"one": 28, "two": 28}
    events.write("summary")  # to nobody


def test_notices_that_wait_when_the_stream_is_stopped_are_told():
    clock = SimulatedClock()

    def items():
        yield from frames(clock, 20)
        clock.stop()
        yield Notice("lost", {"reason": "no data"})

    stream, written = stream_of(items(), NumpyRunner(), clock)
    stream.run()
    last = [entry.get("because", entry["event"]) for entry in written if entry["event"] not in ("window", "dropped")]
    assert last[-3:] == ["lost", "lost", "summary"]
    assert (written[-1]["lost"], written[-1]["ended"]) == (1, "a stop")


def test_a_window_that_cannot_be_run_is_counted_as_dropped():
    class Broken(NumpyRunner):
        def logits(self, frames_TSSC):
            raise AptEdgeError("out of memory")

    clock = SimulatedClock()
    stream, written = stream_of(frames(clock, 20), Broken(), clock)
    with pytest.raises(AptEdgeError):
        stream.run()
    assert [written[-1][name] for name in ("windows", "run", "dropped")] == [1, 0, 1]


def test_a_video_that_cannot_be_written_is_no_loss_of_the_source(tmp_path):
    clock, written = SimulatedClock(), []
    path = tmp_path / "gone" / "out.mp4"
    with Annotated(path) as annotated:
        path.parent.rmdir()
        path.parent.write_text("")  # a file where the directory was
        windows, scheduler = windows_of(SPEC, 2), Scheduler()
        feed = Feed(frames(clock, 60), SPEC, windows, scheduler, clock, annotated)
        events = Events(clock, {"list": lambda entry: written.append(dict(entry))})
        assert Stream(NumpyRunner(), feed, scheduler, 2, QUICK, events, clock).run() is None
    assert (written[-1]["frames"], written[-1]["ended"]) == (60, "the source's end")
    assert "could not be written to its end" in str(annotated.error)


def test_a_video_is_there_as_far_as_it_came(tmp_path):
    for name in ("out.mp4", "out.mov", "out.mkv"):
        annotated = Annotated(tmp_path / name)
        for n in range(40):
            annotated.write(PICTURE, n / 30)
        annotated.__exit__(KeyError, KeyError(), None)
        annotated.write(PICTURE, 2)  # by a thread that comes back late
        assert (annotated.error, probe(tmp_path / name).frames) == (None, 40)
    boxes = (tmp_path / "out.mp4").read_bytes()
    assert boxes.index(b"moov") < boxes.index(b"moof") < boxes.index(b"mdat")  # the head first, then pieces


def test_labels_are_written_from_their_beginning_to_their_end(tmp_path):
    annotated = Annotated(tmp_path / "out.mkv")
    said = []
    for entry in (
        {"event": "begin", "tasks": ["a", "b"]},
        {"event": "start", "task": "b", "label": "run"},
        {"event": "start", "task": "a", "label": "sit"},
        {"event": "start", "task": "a", "label": "talk"},
        {"event": "end", "task": "b", "label": "run"},
        {"event": "end", "task": "a", "label": "sit"},
    ):
        annotated.hear(entry)
        said.append(annotated.text)
    assert said == ["", "b: run", "a: sit\nb: run", "a: sit, talk\nb: run", "a: sit, talk", "a: talk"]
    annotated.hear({"event": "begin", "tasks": ["a"]})
    annotated.hear({"event": "start", "task": "a", "label": "sit"})
    assert annotated.text == "sit"


def test_percentiles_are_of_the_last_numbers():
    recent = Recent()
    assert recent.percentile(50) is None
    for n in range(REMEMBERED + 10):
        recent.add(n)
    assert recent.percentile(0, LATELY) == REMEMBERED + 10 - LATELY
    assert (recent.percentile(0), recent.percentile(100, LATELY)) == (10, REMEMBERED + 9)
