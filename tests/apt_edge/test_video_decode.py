"""Frames are exact, whatever the container does, and damaged files are refused with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from apt_edge.errors import ConfigError, VideoError
from apt_edge.video.decode import DECODERS, frame_range, probe, read_frames, verify
from tests.apt_edge.broken_files import encode
from tests.apt_edge.video_files import HEIGHT, numbers, write_audio, write_video

both = pytest.mark.parametrize("decoder", DECODERS)


@both
@pytest.mark.parametrize(("gop", "b_frames"), [(12, 0), (12, 3), (250, 0), (250, 3)])
def test_every_frame_is_the_one_asked_for(tmp_path, gop, b_frames, decoder):
    path = write_video(tmp_path / "v.mp4", frames=300, gop=gop, b_frames=b_frames)
    info = probe(path, decoder)
    assert verify(path, decoder) == info
    assert (info.frames, info.width, info.height, info.fps) == (300, 72, HEIGHT, 12.0)
    assert numbers(read_frames(path, np.arange(300), decoder)) == list(range(300))
    rng = np.random.default_rng(0)
    for _ in range(10):
        wanted = rng.integers(0, 300, size=4).tolist()
        assert numbers(read_frames(path, wanted, decoder)) == wanted


@both
@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("a.avi", "libx264", 2),  # AVI stores no presentation times
        ("a.avi", "mpeg4", 2),
        ("a.avi", "mpeg4", 0),
        ("a.mkv", "libx264", 2),
        ("a.ts", "libx264", 2),
        ("a.webm", "libvpx-vp9", 0),
    ],
)
def test_other_containers_give_the_same_frames(tmp_path, name, codec, b_frames, decoder):
    path = write_video(tmp_path / name, codec=codec, b_frames=b_frames)
    assert probe(path, decoder).frames == 40
    for wanted in ([0, 5, 39, 5, 13, 12, 11, 26], [38, 30], [39], [7]):
        if decoder == "decord" and name == "a.ts":
            with pytest.raises(VideoError, match=r"decord cannot read .*\n.*\n.*use the decoder pyav"):
                read_frames(path, wanted, decoder)
        else:
            assert numbers(read_frames(path, wanted, decoder)) == wanted


@both
def test_uneven_timestamps_count_as_frames(tmp_path, decoder):
    times = [i * (i + 3) // 4 for i in range(1, 41)]
    path = write_video(tmp_path / "v.mp4", times=times)
    assert probe(path, decoder).frames == 40
    assert numbers(read_frames(path, [39, 0, 20, 21], decoder)) == [39, 0, 20, 21]


@both
def test_a_segment_is_found_by_timestamps(tmp_path, decoder):
    """Frames at 0, 1, 2, 3, 40, 41, 42, 43, 80, ... twelfths of a second after the first, which is at 5 s."""
    times = [60 + 40 * (i // 4) + i % 4 for i in range(40)]
    path = write_video(tmp_path / "v.mp4", times=times, b_frames=3)
    seconds = [(time - 60) / 12 for time in times]
    for start, end in ((None, None), (0, 0.25), (0.1, 3.4), (3.34, None), (None, 3.5), (20.0, 31.0), (1 / 12, 1 / 6)):
        first, count = frame_range(path, start, end, decoder)
        inside = [
            i
            for i, at in enumerate(seconds)
            if (start is None or at >= start - 1e-9) and (end is None or at < end - 1e-9)
        ]
        assert list(range(first, first + count)) == inside, (start, end)
    for start, end in ((0.5, 3.0), (99, None), (None, 0), (2, 1)):
        with pytest.raises(VideoError, match="shows no frame from") as caught:
            frame_range(path, start, end, decoder)
        assert "40 frames" in caught.value.found


def test_segments_count_in_decimals_and_without_timestamps_by_the_rate(tmp_path):
    tenths = write_video(tmp_path / "v.mkv", times=[round(1.2 * i) for i in range(40)])  # Matroska: milliseconds
    assert frame_range(tenths, None, None) == (0, 40)
    avi = write_video(tmp_path / "v.avi", codec="mpeg4", b_frames=2)
    assert frame_range(avi, 0.5, 1.5) == (6, 12)
    mjpeg = write_video(tmp_path / "ten.avi", codec="mpeg4", b_frames=0, rate=10)
    assert frame_range(mjpeg, 0.1, 0.3) == (1, 2)  # neither 0.1 nor 0.3 is a sum of halves: they mean the decimal


def test_an_unknown_decoder_is_refused(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    for call in (probe, verify, lambda path, decoder: read_frames(path, [0], decoder)):
        with pytest.raises(ConfigError, match=r"no decoder 'opencv'\n.*pyav, decord"):
            call(path, "opencv")


@both
def test_repeated_indices_give_repeated_frames(tmp_path, decoder):
    frames = read_frames(write_video(tmp_path / "v.mp4"), [7, 7, 3, 7], decoder)
    assert frames.dtype == np.uint8
    assert frames.shape == (4, HEIGHT, 72, 3)
    assert numbers(frames) == [7, 7, 3, 7]


@both
def test_one_frame_and_a_difficult_name(tmp_path, decoder):
    folder = tmp_path / "vidéos à trier"
    folder.mkdir()
    path = write_video(folder / "клип 走る 1.mp4", frames=1)
    assert probe(path).frames == 1
    assert numbers(read_frames(str(path), [0, 0], decoder)) == [0, 0]


@both
@pytest.mark.parametrize("wanted", [[40], [-1], []])
def test_frames_outside_the_video_are_refused(tmp_path, wanted, decoder):
    path = write_video(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match="asked for"):
        read_frames(path, wanted, decoder)


@both
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_before_its_index_says_so(tmp_path, share, decoder):
    path = cut(write_video(tmp_path / "v.mp4", frames=100), share)
    with pytest.raises(VideoError, match="moov") as caught:
        probe(path, decoder)
    assert "download it again" in caught.value.fix


@both
def test_a_cut_faststart_file_counts_what_is_left(tmp_path, decoder):
    path = write_video(tmp_path / "v.mp4", frames=100, faststart=True)
    left = []
    for share in (0.75, 0.9, 0.99):
        damaged = cut(path, share, tmp_path / "cut.mp4")
        with pytest.raises(VideoError, match=r"cut short\n.*found: \d+ of 100 frames") as caught:
            probe(damaged, decoder)
        with pytest.raises(VideoError, match="cut short"):
            read_frames(damaged, [0], decoder)
        left.append(int(caught.value.found.split()[0]))
    assert left == sorted(left)
    assert 0 < left[0] < left[-1] < 100


def test_corrupted_bytes_are_never_passed_off_as_frames(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=60, gop=12, faststart=True)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    middle = (start + len(data)) // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"damaged|do not decode"):
        read_frames(path, range(60))
    with pytest.raises(VideoError, match="damaged"):
        verify(path)
    assert numbers(read_frames(path, [0, 5])) == [0, 5]  # before the damage the file is good


def test_files_that_are_no_video_are_named_for_what_they_are(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    write_audio(tmp_path / "audio.mp4")
    reasons = {
        "missing.mp4": "does not exist",
        ".": "is a folder",
        "empty.mp4": "0 bytes",
        "text.mp4": "text file, not a video\n.*git-lfs",
        "noise.mp4": "cannot be read as a video",
        "audio.mp4": "no video stream\n.*audio",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=reason) as caught:
            probe(tmp_path / name)
        assert caught.value.fix, name


@both
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_files_are_closed_even_after_errors(tmp_path, decoder):
    good = write_video(tmp_path / "good.mp4", faststart=True)
    bad = cut(good, 0.9, tmp_path / "bad.mp4")
    read_frames(good, [3], decoder)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_frames(good, [3], decoder)
        with pytest.raises(VideoError):
            read_frames(bad, [3], decoder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_frames_that_change_their_size_are_refused(tmp_path):
    """Two H.264 streams behind one another: the second brings its own size."""
    small, large = (
        encode(tmp_path / f"{size[0]}.ts", "libx264", size=size, frames=6, g="6", bf="0")
        for size in ((72, 48), (96, 64))
    )
    path = tmp_path / "both.ts"
    with av.open(str(small)) as first, av.open(str(large)) as second, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(first.streams.video[0])
        for source, delay in ((first, 0), (second, 6 * 7500)):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts, packet.dts, packet.stream = packet.pts + delay, packet.dts + delay, stream
                    out.mux(packet)
    assert len(read_frames(path, range(6))) == 6
    for call in (verify, lambda path: read_frames(path, [2, 8])):
        with pytest.raises(VideoError, match=r"changes its frame size\n.*72x48, 96x64"):
            call(path)


def test_a_changed_file_is_indexed_again(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=10)
    assert probe(path).frames == 10
    write_video(path, frames=25)
    assert probe(path).frames == 25


def cut(path: Path, share: float, to: Path | None = None) -> Path:
    data = path.read_bytes()
    to = to or path
    to.write_bytes(data[: int(len(data) * share)])
    return to
