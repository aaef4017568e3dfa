"""`apt-edge stream` on a real export and a real video: the bits of offline windows, and an end in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from apt_edge.commands.stream import _stopped_by_signals
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.predictor import softmax
from apt_edge.runtime.runner import TaskRunner
from apt_edge.runtime.sessions import open_session
from apt_edge.stream.embeddings import Embeddings
from apt_edge.stream.feed import Feed
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.source import Source
from apt_edge.stream.windows import windows_of
from apt_edge.video.decode import probe, read_frames
from apt_edge.video.lists import Item
from apt_edge.video.load import load_frames
from apt_edge.video.preprocess import short_side_crop
from tests.apt_edge.stream.senders import PipeWriter
from tests.apt_edge.stream.simulated import SimulatedClock
from tests.apt_edge.video_files import write_video
from tests.conftest import TINY_CLIP
from tests.export.exporting import export, target


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a video.mp4", 60, rate=30)


@pytest.fixture
def model(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    return tmp_path / "m"


@pytest.fixture
def split(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "split", chosen=target("onnxruntime-cpu", "split_at=[0]"), tokens=8)
    return tmp_path / "split"


def entries(text, *events):
    found = [json.loads(line) for line in text.splitlines()]
    return [entry for entry in found if not events or entry["event"] in events]


def offline(path, video, hop, span):
    """Logits that the whole graph gives for the clips of validation of the video's stretches."""
    model = ModelDir.load(path)
    session = open_session(model, 1)
    offsets = windows_of(TINY_CLIP, hop, span).offsets
    starts = range(0, probe(video).frames - offsets[-1], hop)
    clips = [short_side_crop(read_frames(video, [start + o for o in offsets]), TINY_CLIP) for start in starts]
    return np.stack([session.run(model.feeds(session.inputs, clip))["logits"][0] for clip in clips])


@pytest.mark.parametrize("hop", [1, 4, 7, 8])
def test_windows_have_the_bits_of_offline_windows(model, split, video, hop):
    for path in (model, split):
        runner = TaskRunner.open(path, threads=1)
        assert runner.tubelet == (2 if path is split else None)
        clock, windows, scheduler = SimulatedClock(), windows_of(TINY_CLIP, hop, 16), Scheduler()
        source = Source(str(video), clock, 0, fast=True)
        feed = Feed(source.items(), TINY_CLIP, windows, scheduler, clock)
        embeddings, found = Embeddings(runner, hop), []
        while not feed.ended:
            feed.wait()
            _, window = feed.take()
            if window is not None:
                found.append(next(iter(embeddings.logits(window).values())))
                feed.finished(window)
        source.close()
        expected = offline(path, video, hop, 16)
        np.testing.assert_array_equal(np.stack(found), expected)
        assert embeddings.reused == (0 if path is model else _shared(len(expected), hop))


def _shared(windows, hop):
    """Tubelets of windows of frames 2, 6 | 10, 14 that are those of the window eight frames earlier."""
    return 0 if 8 % hop else windows - 8 // hop


def test_the_first_window_is_what_predict_sees_of_that_stretch(apt_edge, model, video):
    done = apt_edge("stream", model, video, "--fast", "--windows", "--smooth", 1, "--json", "--span", 16)
    assert done.returncode == 0, done.stderr
    clip = load_frames(Item(video, None, 0, 16 / 30), TINY_CLIP)
    probabilities = softmax(TaskRunner.open(model).logits(clip)["m"])
    first = entries(done.stdout, "window")[0]
    assert first["tasks"]["m"] == {"label": f"class {probabilities.argmax()}", "probability": probabilities.max()}
    summary = entries(done.stdout)[-1]
    assert (summary["event"], summary["dropped"], summary["frames"]) == ("summary", 0, 60)
    assert summary["run"] == summary["windows"] == len(entries(done.stdout, "window"))


def test_text_events_file_and_annotated_video(apt_edge, split, video, tmp_path):
    log, annotated = tmp_path / "logs" / "events.jsonl", tmp_path / "out.mp4"
    options = ["--fast", "--hop", 8, "--on", 0.3, "--off", 0.1]
    for _ in range(2):
        done = apt_edge("stream", split, video, "--events", log, "--annotate", annotated, *options)
        assert done.returncode == 0, done.stderr
    assert "reuse 4" in done.stdout
    assert [entry["event"] for entry in entries(log.read_text(), "begin", "summary")] == ["begin", "summary"] * 2
    assert (probe(annotated).frames, probe(annotated).width, probe(annotated).height) == (60, 72, 48)
    drawn, plain = read_frames(annotated, range(60)), read_frames(video, range(60))
    assert np.abs(drawn[:, :24].astype(int) - plain[:, :24]).mean() < 8
    bottom = drawn[30:, -10:].reshape(30, -1)
    assert np.median(bottom) < 40  # black, with letters in white
    assert (bottom.max(axis=1) > 150).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_order(model, video, tmp_path, number):
    command = [sys.executable, "-m", "apt_edge.cli", "stream", model, video, "--hop", "2", "--windows", "--json"]
    command += ["--events", tmp_path / "events", "--annotate", tmp_path / "out.mkv"]
    listening = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - started in the background it would not hear Ctrl-C
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    told = entries("".join(lines) + out)
    assert (told[-1]["event"], told[-1]["ended"]) == ("summary", "a stop")
    assert entries((tmp_path / "events").read_text()) == told
    assert probe(tmp_path / "out.mkv").frames == told[-1]["frames"] < 60


def test_a_pipe_that_is_lost_three_times_is_accounted_for(model, tmp_path):
    """Every label that began ends, every window ran or was dropped, every loss is told and came back."""
    video, pipe = write_video(tmp_path / "video.ts", 60, rate=30), tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "apt_edge.cli", "stream", model, pipe, "--hop", "1", "--json"]
    command += ["--windows", "--smooth", "1", "--on", "0.3", "--off", "0.3"]
    told = []
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        for losses in range(1, 5):
            writer = PipeWriter(video, pipe, video.stat().st_size - 100)  # the last frame is cut
            writer.kill()
            while sum(entry["event"] == "lost" for entry in told) < losses:
                told.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        told += entries(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    events = [entry["event"] for entry in told]
    assert [name for name in events if name in ("lost", "reconnected")] == ["lost", "reconnected"] * 3 + ["lost"]
    summary = told[-1]
    assert (summary["event"], summary["lost"], summary["reconnected"], summary["ended"]) == ("summary", 4, 3, "a stop")
    assert summary["windows"] == summary["run"] + summary["dropped"] > 100
    assert summary["run"] == events.count("window")
    assert summary["dropped"] == sum(entry["windows"] for entry in told if entry["event"] == "dropped")
    begun = set()
    for entry in told:
        if entry["event"] in ("start", "end"):
            assert (entry["label"] in begun) == (entry["event"] == "end")
            begun ^= {entry["label"]}
        assert entry["event"] != "lost" or not begun  # labels end before
    assert begun == set()
    assert "start" in events  # a busy machine may drop all windows of a connection


def test_a_lost_file_ends_with_its_summary_and_an_instruction(apt_edge, model, video, tmp_path):
    (tmp_path / "cut.ts").write_bytes(write_video(tmp_path / "whole.ts", 60, rate=30).read_bytes()[:-1000])
    done = apt_edge("stream", model, tmp_path / "cut.ts", "--fast", "--json", "--annotate", tmp_path / "out.mp4")
    assert done.returncode == 1
    assert "cut.ts is lost" in done.stderr
    assert "fix:" in done.stderr
    told = [entry["event"] for entry in entries(done.stdout)]
    assert (told[0], told.count("lost"), told[-1]) == ("begin", 1, "summary")
    assert probe(tmp_path / "out.mp4").frames == entries(done.stdout)[-1]["frames"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--hop", 0], 2, "no number from 1"),
        (["--hop", 2, "--hop-seconds", 1], 2, "not allowed with"),
        (["--hop-seconds", "soon"], 2, "give a number above 0"),
        (["--hop-seconds", "1e308"], 2, "give a number above 0, up to 1000000000"),
        (["--smooth", "9" * 20], 2, "no number from 1 to 100000"),
        (["--span", 10**6], 2, "no number from 1 to 100000"),
        (["--retries", -3], 2, "no number from 0"),
        (["--threads", 10**6], 2, "no number from 1 to"),
        (["--on", "x"], 2, "give a number from 0 to 1"),
        (["--on", 0.2], 1, "use for example --on 0.6 --off 0.4"),
        (["--span", 3], 1, "use 4 frames or more"),
        (["--annotate", "out.gif"], 1, "out.mp4"),
        (["--annotate", "/dev/null/out.mp4"], 1, "/dev/null"),
        (["--events", "/dev/null/log"], 1, "/dev/null"),
    ],
)
def test_options_that_make_no_sense(apt_edge, model, video, arguments, code, message):
    done = apt_edge("stream", model, video, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


@pytest.mark.parametrize("option", ["--annotate", "--events"])
def test_what_is_read_is_not_written_over(apt_edge, model, video, tmp_path, option):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    (tmp_path / "link.mp4").symlink_to(copy)
    for place in (copy, tmp_path / "link.mp4", model / "model.mp4", tmp_path):
        done = apt_edge("stream", model, copy, "--fast", option, place)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"cannot be written with {option}" in done.stderr
    assert copy.read_bytes() == video.read_bytes()


def test_what_can_be_wrong_is_found_before_the_source_is_waited_for(apt_edge, model, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # nobody writes: to open it would take for ever
    for options in (["--events", "/dev/null/log"], ["--span", 3], ["--fast"], ["--annotate", "/dev/null/o.mp4"]):
        assert apt_edge("stream", model, tmp_path / "pipe", *options).returncode == 1


def test_a_video_without_a_window_is_told(apt_edge, model, tmp_path):
    short = write_video(tmp_path / "short.mp4", 4, rate=30)
    done = apt_edge("stream", model, short, "--fast", "--json")
    assert (done.returncode, entries(done.stdout)[-1]["windows"]) == (1, 0)
    assert "found: 4 frames; a window takes" in done.stderr


def test_a_reader_that_goes_away_ends_the_stream_in_order(model, video, tmp_path):
    log, annotated = tmp_path / "log", tmp_path / "out.mp4"
    command = [sys.executable, "-m", "apt_edge.cli", "stream", model, video, "--fast", "--hop", "1", "--windows"]
    for options in (["--events", log], []):
        with subprocess.Popen(
            [*map(str, [*command, *options, "--annotate", annotated])], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1
        frames = probe(annotated).frames
        assert frames == 60 or not options  # where events go to a file, too, they go on
    told = entries(log.read_text())
    assert [told[0]["event"], told[-1]["event"], told[-1]["frames"]] == ["begin", "summary", 60]
    assert [entry["what"] for entry in told if entry["event"] == "failed"] == ["standard output"]


def test_a_full_disk_under_the_events_stops_them_alone(apt_edge, model, video, tmp_path):
    done = apt_edge("stream", model, video, "--fast", "--json", "--events", "/dev/full")
    assert done.returncode == 1
    assert "/dev/full could not be written to its end\n  found: No space left on device" in done.stderr
    told = entries(done.stdout)
    assert (told[-1]["event"], told[-1]["frames"]) == ("summary", 60)
    assert entries(done.stdout, "failed")[0]["what"] == "/dev/full"


def test_an_ignored_signal_stays_ignored():
    clock, before = SimulatedClock(), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _stopped_by_signals(clock):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_annotating_needs_is_named(model, video, tmp_path):
    code = "import sys; sys.modules['PIL'] = None; from apt_edge.cli import main; main()"
    command = [sys.executable, "-c", code, "stream", model, video, "--annotate", tmp_path / "o.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'apt-edge[stream]'" in done.stderr) == (1, True)


def test_hops_in_seconds_are_frames_of_the_source(apt_edge, model, video):
    done = apt_edge("stream", model, video, "--fast", "--json", "--hop-seconds", 0.2)
    assert entries(done.stdout, "begin")[0]["hop"] == 6
