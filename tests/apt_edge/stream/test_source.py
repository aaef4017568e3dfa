"""Frames of real files, pipes and RTSP, through writers that die and streams that are cut."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from apt_edge.errors import VideoError
from apt_edge.stream.clock import Clock
from apt_edge.stream.connect import _explain, connect, kind_of, shown
from apt_edge.stream.source import Frame, Notice, Source, _Times
from apt_edge.video.decode import probe, read_frames
from tests.apt_edge.stream.senders import PipeWriter, RtspServer
from tests.apt_edge.stream.simulated import SimulatedClock
from tests.apt_edge.video_files import numbers, write_video


class HastyClock(Clock):
    """Waits for nothing longer than a moment."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.02))


class QuietHandler(SimpleHTTPRequestHandler):
    """Files of a folder, without a word on the terminal."""

    def log_message(self, *arguments):
        pass


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


@pytest.mark.parametrize("jump", [3600, -1, -3600])
def test_a_file_whose_timestamps_jump_goes_on_after_one_frame(tmp_path, jump):
    path, clock = tmp_path / "jump.mpg", SimulatedClock()
    parts = [tmp_path / "0.mpg", tmp_path / "1.mpg"]
    for part, first in zip(parts, (100_000, 100_020 + 25 * jump), strict=True):
        write_video(part, 20, 10, 0, codec="mpeg2video", rate=25, times=[first + n for n in range(20)])
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = Source(str(path), clock, 0)
    items = list(source.items())
    source.close()
    gaps = [n for n, item in enumerate(items) if isinstance(item, Notice)]
    assert len(gaps) == 1
    assert "jump" in items[gaps[0]].facts["reason"]
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.seconds for frame in frames] == pytest.approx([n / 25 for n in range(40)])
    assert [frame.captured for frame in frames] == pytest.approx([n / 25 for n in range(40)])


@pytest.mark.parametrize("live", [False, True])
def test_timestamps_that_the_demuxer_invents_are_not_believed(tmp_path, live):
    """AVI in which frames are stored in another order than they are shown."""
    path, source = tmp_path / "b.avi", tmp_path / "b.avi"
    write_video(path, 40)
    clock = HastyClock()
    if live:
        source = tmp_path / "pipe"
        os.mkfifo(source)
        writer = PipeWriter(path, source)
    opened, items = Source(str(source), clock, 0, fast=not live), []
    for item in opened.items():
        items.append(item)
        if live and len(items) == 30:
            writer.kill()
        if isinstance(item, Notice):
            clock.stop()
    opened.close()
    kept = [item for item in items if isinstance(item, Frame)]
    assert len(items) - len(kept) == live  # it is lost when the writer is
    assert numbers(np.stack(pictures(kept))) == list(range(len(kept)))
    assert len(kept) >= 36
    if not live:
        assert [frame.seconds for frame in kept] == pytest.approx([n / 12 for n in range(40)])


def test_frames_that_waited_unseen_are_old(folder, tmp_path):
    """All frames lie in the pipe and each takes a second, of which a twelfth is its own."""
    pipe, clock = tmp_path / "pipe", SimulatedClock()
    os.mkfifo(pipe)
    writer = PipeWriter(folder / "no-b.ts", pipe)
    source, ages = Source(str(pipe), clock, 0), []
    for item in source.items():
        if isinstance(item, Notice):
            break
        ages.append(clock.now() - item.captured)
        clock.sleep(1)
        if len(ages) == 30:
            writer.kill()
    source.close()
    expected = [n * 11 / 12 for n in range(len(ages))]
    assert ages == pytest.approx(expected, rel=1e-3)
    assert len(ages) >= 36


def test_a_slow_clock_of_the_sender_is_no_delay():
    """A tenth of a thousandth slower, for a day."""
    stream = SimpleNamespace(time_base=Fraction(1, 1000), codec_context=SimpleNamespace(has_b_frames=False))
    times = _Times(SimpleNamespace(format=SimpleNamespace(name="rtsp")), stream, 25)
    for second in range(86_400):
        now = second * 1.0001
        _, came, jump = times.of(SimpleNamespace(pts=second * 1000), now)
        assert now - came < 1e-3
        assert not jump


def test_the_wait_for_a_sender_grows_to_an_end(tmp_path):
    """Also after 1025 attempts, where a power of two is no number any more."""
    pipe, clock = tmp_path / "pipe", SimulatedClock()
    os.mkfifo(pipe)
    clock.stop()
    source = Source(str(pipe), clock, retries=1100)
    clock.stopped = False
    pipe.unlink()
    with pytest.raises(VideoError, match="1100 attempts"):
        source._reconnect(0, "gone")
    assert clock.now() == pytest.approx(1094 * 30 + sum(0.5 * 2**n for n in range(6)))


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
    assert " list" not in str(error.value)  # of videos: another command has one
    assert "word@" not in str(error.value)


@pytest.mark.parametrize(("name", "data"), [("empty.mp4", b""), ("noise.mp4", b"\0\1" * 5000)])
def test_a_file_that_is_no_video_is_told_without_lists(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VideoError) as error:
        Source(str(tmp_path / name), Clock(), 0)
    assert "copy or download it again" in str(error.value)
    assert " list" not in str(error.value)


def test_a_pipe_without_a_byte_is_empty(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"",))
    writer.start()
    with pytest.raises(VideoError, match=r"(?s)pipe is empty.*0 bytes.*see that the program"):
        Source(str(pipe), Clock(), 0)
    writer.join()


def test_a_file_on_a_server_is_no_live_video(folder):
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(VideoError, match=r"(?s)is a file on a server.*a length of 3 s.*curl"):
                Source(f"http://127.0.0.1:{server.server_address[1]}/fast.mp4?key=1", Clock(), 0)
        finally:
            server.shutdown()
            thread.join()


def test_a_busy_camera_is_told_what_to_do():
    error = _explain("/dev/video0", "camera", OSError(errno.EBUSY, os.strerror(errno.EBUSY)))
    assert "fuser -v /dev/video0" in str(error)
    assert "busy" in str(error)


def test_kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sources = ("-", "rtsp://camera/1", "/dev/video7", str(tmp_path / "pipe"), str(tmp_path / "a.mp4"), "/dev/null")
    assert [kind_of(s) for s in sources] == ["stdin", "network", "camera", "fifo", "file", "camera"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://a:b@host/x", "rtsp://host/x"),
        ("rtsp://a:b/secret@c@host:554/x", "rtsp://host:554/x"),
        ("rtsp://a:b?secret@host/x", "rtsp://host/x"),
        ("rtsp://secret@host/x", "rtsp://host/x"),
        ("rtsp://host/cam@1", "rtsp://host/cam@1"),
        ("http://host:80/x.m3u8?token=secret", "http://host:80/x.m3u8?..."),
        ("srt://host:1?passphrase=secret&mode=caller", "srt://host:1?..."),
        ("what?.mp4", "what?.mp4"),
    ],
)
def test_addresses_are_shown_without_secrets(source, name):
    assert shown(source) == name


def test_descriptors_are_given_back(folder, tmp_path):
    open_before = len(os.listdir("/proc/self/fd"))
    shutil.copy(folder / "no-b.ts", tmp_path / "a.ts")
    (tmp_path / "audio.ts").write_bytes(b"\x47" * 5000)
    for _ in range(3):
        items_of(tmp_path / "a.ts")
        with pytest.raises(VideoError):
            connect(str(tmp_path / "audio.ts"), "file", Clock())
    assert len(os.listdir("/proc/self/fd")) == open_before
