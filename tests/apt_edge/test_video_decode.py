"""Frames are exact, whatever the container does, and damaged files are refused with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import VideoError
from apt_edge.video.decode import probe, read_frames, verify
from tests.apt_edge.video_files import HEIGHT, numbers, write_audio, write_video


@pytest.mark.parametrize(("gop", "b_frames"), [(12, 0), (12, 3), (250, 0), (250, 3)])
def test_every_frame_is_the_one_asked_for(tmp_path, gop, b_frames):
    path = write_video(tmp_path / "v.mp4", frames=300, gop=gop, b_frames=b_frames)
    info = probe(path)
    assert verify(path) == info
    assert (info.frames, info.width, info.height, info.fps) == (300, 72, HEIGHT, 12.0)
    assert numbers(read_frames(path, np.arange(300))) == list(range(300))
    rng = np.random.default_rng(0)
    for _ in range(10):
        wanted = rng.integers(0, 300, size=4).tolist()
        assert numbers(read_frames(path, wanted)) == wanted


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
def test_other_containers_give_the_same_frames(tmp_path, name, codec, b_frames):
    path = write_video(tmp_path / name, codec=codec, b_frames=b_frames)
    assert probe(path).frames == 40
    for wanted in ([0, 5, 39, 5, 13, 12, 11, 26], [38, 30], [39], [7]):
        assert numbers(read_frames(path, wanted)) == wanted


def test_uneven_timestamps_count_as_frames(tmp_path):
    times = [i * (i + 3) // 4 for i in range(1, 41)]
    path = write_video(tmp_path / "v.mp4", times=times)
    assert probe(path).frames == 40
    assert numbers(read_frames(path, [39, 0, 20, 21])) == [39, 0, 20, 21]


def test_repeated_indices_give_repeated_frames(tmp_path):
    frames = read_frames(write_video(tmp_path / "v.mp4"), [7, 7, 3, 7])
    assert frames.dtype == np.uint8
    assert frames.shape == (4, HEIGHT, 72, 3)
    assert numbers(frames) == [7, 7, 3, 7]


def test_one_frame_and_a_difficult_name(tmp_path):
    folder = tmp_path / "vidéos à trier"
    folder.mkdir()
    path = write_video(folder / "клип 走る 1.mp4", frames=1)
    assert probe(path).frames == 1
    assert numbers(read_frames(str(path), [0, 0])) == [0, 0]


@pytest.mark.parametrize("wanted", [[40], [-1], []])
def test_frames_outside_the_video_are_refused(tmp_path, wanted):
    path = write_video(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match="asked for"):
        read_frames(path, wanted)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_before_its_index_says_so(tmp_path, share):
    path = cut(write_video(tmp_path / "v.mp4", frames=100), share)
    with pytest.raises(VideoError, match="moov") as caught:
        probe(path)
    assert "download it again" in caught.value.fix


def test_a_cut_faststart_file_counts_what_is_left(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=100, faststart=True)
    left = []
    for share in (0.75, 0.9, 0.99):
        damaged = cut(path, share, tmp_path / "cut.mp4")
        with pytest.raises(VideoError, match=r"cut short\n.*found: \d+ of 100 frames") as caught:
            probe(damaged)
        with pytest.raises(VideoError, match="cut short"):
            read_frames(damaged, [0])
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


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_files_are_closed_even_after_errors(tmp_path):
    good = write_video(tmp_path / "good.mp4", faststart=True)
    bad = cut(good, 0.9, tmp_path / "bad.mp4")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_frames(good, [3])
        with pytest.raises(VideoError):
            read_frames(bad, [3])
    assert len(os.listdir("/proc/self/fd")) == before


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
