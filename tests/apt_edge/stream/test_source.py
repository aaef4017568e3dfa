"""Frames of real files, pipes and RTSP, through writers that die and streams that are cut."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from apt_edge.errors import VideoError
from apt_edge.stream.clock import Clock
from apt_edge.stream.connect import _explain, connect, kind_of, shown
from apt_edge.stream.source import Frame, Notice, Source
from apt_edge.video.decode import probe, read_frames
from tests.apt_edge.stream.senders import PipeWriter, RtspServer
from tests.apt_edge.stream.simulated import SimulatedClock
from tests.apt_edge.video_files import numbers, write_video


class HastyClock(Clock):
    """Waits for nothing longer than a moment."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.02))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "plain.mp4", 40)
    write_video(folder / "fast.mp4", 40, faststart=True)
    write_video(folder / "late.mp4", 40, times=[n + 5 for n in range(40)])
    write_video(folder / "no-b.ts", 40, b_frames=0)
    write_video(folder / "with-b.mkv", 40, b_frames=2)
    write_video(folder / "with-b.ts", 40)
    return folder


def items_of(source, clock=None, retries=0):
    source = Source(str(source), clock or SimulatedClock(), retries, fast=True)
    try:
        return list(source.items())
    finally:
        source.close()


def items_of_failing(source, clock=None, retries=0, on_notice=lambda notice: None):
    """The items up to the error, and the error."""
    source, items = Source(str(source), clock or SimulatedClock(), retries, fast=clock is None), []
    try:
        for item in source.items():
            items.append(item)
            if isinstance(item, Notice):
                on_notice(item)
    except VideoError as error:
        return items, error
    finally:
        source.close()
    raise AssertionError("no error")


def pictures(items):
    return [item.picture() for item in items if isinstance(item, Frame)]


@pytest.mark.parametrize("name", ["plain.mp4", "fast.mp4", "late.mp4", "no-b.ts", "with-b.mkv"])
def test_frames_of_a_file_are_those_of_offline_reading(folder, name):
    found = pictures(items_of(folder / name))
    expected = read_frames(folder / name, range(probe(folder / name).frames))
    np.testing.assert_array_equal(np.stack(found), expected)
    assert numbers(np.stack(found)) == list(range(40))


def test_a_file_at_its_own_speed_takes_its_time(folder):
    clock = SimulatedClock()
    source = Source(str(folder / "plain.mp4"), clock, 0)
    assert source.rate == 12
    frames = list(source.items())
    source.close()
    assert [frame.seconds for frame in frames] == pytest.approx([n / 12 for n in range(40)])
    assert [frame.captured for frame in frames] == pytest.approx([n / 12 for n in range(40)])


@pytest.mark.parametrize("part", [0.47, 0.91, 0.99])
@pytest.mark.parametrize("name", ["fast.mp4", "no-b.ts", "with-b.mkv"])
def test_a_file_that_stops_mid_frame_never_gives_a_wrong_frame(folder, tmp_path, name, part):
    cut = tmp_path / name
    data = (folder / name).read_bytes()
    cut.write_bytes(data[: int(part * len(data))])
    items, error = items_of_failing(cut)
    assert "is lost" in error.wrong
    lost = [item.facts["reason"] for item in items if isinstance(item, Notice) and item.event == "lost"]
    assert [lost[0]] == lost == [error.found]
    found = pictures(items)
    whole = read_frames(folder / name, range(40))
    assert all((one == other).all() for one, other in zip(found, whole, strict=False))


def test_a_change_of_size_is_announced(tmp_path):
    path = tmp_path / "sizes.ts"
    with path.open("wb") as file:
        for n, width in enumerate((72, 96, 72)):
            part = tmp_path / f"{n}.ts"
            with av.open(str(part), "w") as container:
                stream = container.add_stream("mpeg2video", rate=25)
                stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
                for _ in range(10):
                    container.mux(
                        stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, width, 3), np.uint8), "rgb24"))
                    )
                container.mux(stream.encode())
            file.write(part.read_bytes())
    items = items_of(path)
    told = [item.facts for item in items if isinstance(item, Notice) and item.event == "size"]
    assert told == [{"was": "72x48", "now": "96x48"}, {"was": "96x48", "now": "72x48"}]
    assert {picture.shape for picture in pictures(items)} == {(48, 72, 3), (48, 96, 3)}


def test_a_pipe_whose_writer_is_killed_three_times(folder, tmp_path):
    """Each writer is killed in the middle of a frame; then none comes any more."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    size = (folder / "no-b.ts").stat().st_size - 100
    clock = HastyClock()
    writer = PipeWriter(folder / "no-b.ts", pipe, size)
    source = Source(str(pipe), clock, retries=5)
    told, found, runs = [], [], [[]]
    for item in source.items():
        if isinstance(item, Frame):
            runs[-1].append(item.picture())
            if len(runs[-1]) == 30:
                writer.kill()
            continue
        told.append(item.event)
        if item.event == "lost":
            runs.append([])
            if len(runs) == 5:
                clock.stop()
            else:
                writer = PipeWriter(folder / "no-b.ts", pipe, size)
    source.close()
    kept = [event for event in told if event != "gap"]
    assert kept == ["lost", "reconnected"] * 3 + ["lost"]
    found = [numbers(np.stack(run)) for run in runs[:4]]
    assert all(run == list(range(len(run))) and len(run) >= 30 for run in found)


def test_rtsp_that_goes_away_and_comes_back_three_times(folder):
    clock = HastyClock()
    server = RtspServer(folder / "with-b.ts")
    source = Source(f"rtsp://user:secret@127.0.0.1:{server.port}/live", clock, retries=500)
    told, runs = [], [[]]
    for item in source.items():
        if isinstance(item, Frame):
            runs[-1].append(item.picture())
            continue
        told.append(item.event)
        if item.event == "lost":
            runs.append([])
            server.stop()
            assert server.requests[-1] == "PLAY"
            if told.count("lost") == 4:
                clock.stop()
            else:
                server = RtspServer(folder / "with-b.ts", server.port)
    source.close()
    assert [event for event in told if event != "gap"] == ["lost", "reconnected"] * 3 + ["lost"]
    for run in runs[:4]:
        assert numbers(np.stack(run)) == list(range(len(run)))
        assert len(run) >= 35
    assert source.name == f"rtsp://127.0.0.1:{server.port}/live"


def test_a_silent_sender_is_a_lost_one(folder, monkeypatch):
    monkeypatch.setattr("apt_edge.stream.connect.PATIENCE", 0.3)
    server = RtspServer(folder / "no-b.ts", stalls=True)
    source = Source(f"rtsp://127.0.0.1:{server.port}/live", HastyClock(), retries=0)
    try:
        with pytest.raises(VideoError, match=r"(?s)is lost.*no data for 0.3 s; 0 attempts.*--retries"):
            list(source.items())
    finally:
        source.close()
        server.stop()


def test_a_sender_that_does_not_come_back_ends_the_stream(folder):
    server = RtspServer(folder / "no-b.ts")
    address = f"rtsp://127.0.0.1:{server.port}/live"
    items, error = items_of_failing(address, HastyClock(), 3, lambda notice: server.stop())
    assert "3 attempts" in error.found
    assert [item.event for item in items if isinstance(item, Notice)] == ["lost"]


def test_standard_input(folder):
    code = (
        "from apt_edge.stream.source import Source; from apt_edge.stream.clock import Clock;"
        "source = Source('-', Clock(), 0, True); print(sum(1 for _ in source.items()))"
    )
    with (folder / "no-b.ts").open("rb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=False)
    assert done.stdout == "40\n", done.stderr


def test_a_stop_ends_who_waits_for_a_writer(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    clock = Clock()
    clock.stop()
    assert list(Source(str(pipe), clock, 0).items()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.mp4", "does not exist"),
        ("/dev/video99", r"(?s)camera.*plug it in"),
        ("/dev/null", r"(?s)camera /dev/null cannot be opened"),
        ("rtsp://name:word@127.0.0.1:1/x", r"(?s)^rtsp://127.0.0.1:1/x cannot be opened.*password"),
        ("tcp://127.0.0.1:1", "cannot be opened"),
        (str(Path(__file__).parent), "is a folder"),
        (__file__, "text file"),
    ],
)
def test_what_cannot_be_opened_is_an_instruction(source, message):
    with pytest.raises(VideoError, match=message) as error:
        Source(source, Clock(), 0)
    assert "fix:" in str(error.value)
    assert "word@" not in str(error.value)


def test_a_busy_camera_is_told_what_to_do():
    error = _explain("/dev/video0", "camera", OSError(errno.EBUSY, os.strerror(errno.EBUSY)))
    assert "fuser -v /dev/video0" in str(error)
    assert "busy" in str(error)


def test_kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sources = ("-", "rtsp://camera/1", "/dev/video7", str(tmp_path / "pipe"), str(tmp_path / "a.mp4"), "/dev/null")
    assert [kind_of(s) for s in sources] == ["stdin", "network", "camera", "fifo", "file", "camera"]
    assert shown("rtsp://a:b@host/x") == "rtsp://host/x"


def test_descriptors_are_given_back(folder, tmp_path):
    open_before = len(os.listdir("/proc/self/fd"))
    shutil.copy(folder / "no-b.ts", tmp_path / "a.ts")
    (tmp_path / "audio.ts").write_bytes(b"\x47" * 5000)
    for _ in range(3):
        items_of(tmp_path / "a.ts")
        with pytest.raises(VideoError):
            connect(str(tmp_path / "audio.ts"), "file", Clock())
    assert len(os.listdir("/proc/self/fd")) == open_before
