"""What decord does otherwise than PyAV, as its module says; where it does not, the pixels are equal."""

from __future__ import annotations

import sys
from contextlib import suppress

import numpy as np
import pytest

from apt_edge.errors import MissingDependency, VideoError
from apt_edge.video.decode import probe, read_frames, verify
from apt_edge.video.decoders.packets import find_index
from tests.apt_edge.broken_files import change, encode, write_files
from tests.apt_edge.video_files import numbers, write_video

B_FRAMES = {"bf": "2", "g": "12"}


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "size", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", (340, 256), {"bf": "3", "g": "12"}),
        ("hd.mp4", "libx264", "yuv420p", (72, 48), {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}),
        ("full.mp4", "libx264", "yuvj420p", (72, 48), {}),
        ("open.mp4", "libx264", "yuv420p", (72, 48), {"bf": "3", "g": "12", "x264-params": "open-gop=1"}),
        ("444.mp4", "libx264", "yuv444p", (95, 63), {}),
        ("a.avi", "libx264", "yuv420p", (72, 48), B_FRAMES),
        ("a.avi", "mpeg4", "yuv420p", (71, 49), B_FRAMES),
        ("a.mov", "mpeg4", "yuv420p", (72, 48), B_FRAMES),
        ("a.mkv", "mpeg4", "yuv420p", (72, 48), B_FRAMES),
        ("a.mpg", "mpeg2video", "yuv420p", (80, 48), B_FRAMES),
        ("a.webm", "libvpx", "yuv420p", (72, 48), {"g": "12"}),
        ("a.webm", "libvpx-vp9", "yuv420p", (95, 63), {"g": "12"}),
        ("av1.mp4", "libsvtav1", "yuv420p10le", (72, 48), {"g": "12", "preset": "12", "svtav1-params": "lp=1"}),
        ("a.mp4", "libx265", "yuv420p10le", (72, 48), {"x265-params": "log-level=none:keyint=12"}),
    ],
)
def test_the_same_index_gives_the_same_pixels(tmp_path, name, codec, pixels, size, options):
    """In sharp colours, at random places, so that seeking, chroma positions and colour matrices all show."""
    path = encode(tmp_path / name, codec, pixels, size, frames=48, **options)
    rng = np.random.default_rng(0)
    for count in (48, 1, 5, 5, 5, 5):
        wanted = rng.permutation(48)[:count]
        np.testing.assert_array_equal(read_frames(path, wanted, "decord"), read_frames(path, wanted))


@pytest.mark.parametrize("width", [16, 32, 64, 96, 80, 33])
def test_widths_that_decord_takes_for_four_channels(tmp_path, width):
    path = encode(tmp_path / "v.mp4", "libx264", "yuv444p", (width, 34))
    np.testing.assert_array_equal(read_frames(path, [3, 7], "decord"), read_frames(path, [3, 7]))


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotated_videos_are_upright_in_both(tmp_path, turn):
    """PyAV's frames turned by hand, counter-clockwise."""
    path = encode(tmp_path / "v.mp4", "libx264", rotation=turn)
    upright = encode(tmp_path / "upright.mp4", "libx264")
    expected = np.rot90(read_frames(upright, [0, 5]), turn // 90, axes=(1, 2))
    assert (probe(path).width, probe(path).height) == (expected.shape[2], expected.shape[1])
    for decoder in ("pyav", "decord"):
        np.testing.assert_array_equal(read_frames(path, [0, 5], decoder), expected)


def test_damage_that_decord_conceals_and_pyav_refuses(tmp_path):
    """Frames come back, of the right number and size, and wrong: nothing but another decoder could tell.

    Four bytes are inverted. PyAV passes few; decord refuses few.
    """
    path = encode(tmp_path / "v.mp4", "libx264", size=(144, 96), frames=60, bf="2", g="12")
    good, data = read_frames(path, range(60)), path.read_bytes()
    rng = np.random.default_rng(0)
    passed, concealed = 0, 0
    for _ in range(20):
        damaged, place = bytearray(data), int(rng.integers(len(data) // 4, len(data) * 3 // 4))
        damaged[place : place + 4] = bytes(255 - byte for byte in damaged[place : place + 4])
        path.write_bytes(damaged)
        with suppress(VideoError):
            verify(path)
            passed += 1
        with suppress(VideoError):
            verify(path, "decord")
            concealed += not np.array_equal(read_frames(path, range(60), "decord"), good)
    assert passed <= 2
    assert concealed > 10


def test_every_good_file_of_the_sixty_is_equal_in_both(tmp_path):
    """Apart from single frames in Matroska, whose length decord cannot find."""
    compared = 0
    for file in write_files(tmp_path):
        for decoder in ("pyav", "decord"):
            if file.frames is None:
                for call in (verify, lambda path, decoder: read_frames(path, [0], decoder)):
                    with pytest.raises(VideoError, match=file.reason) as caught:
                        call(file.path, decoder)
                    assert caught.value.fix, file
        if file.frames is not None:
            expected = read_frames(file.path, range(file.frames))
            info = verify(file.path)
            assert (info.frames, info.height, info.width) == expected.shape[:3], file
            if file.kind == "one frame" and file.path.suffix in (".mkv", ".webm"):
                with pytest.raises(VideoError, match="decord cannot read"):
                    read_frames(file.path, [0], "decord")
            else:
                assert verify(file.path, "decord") == info
                np.testing.assert_array_equal(read_frames(file.path, range(file.frames), "decord"), expected)
                compared += 1
    assert compared == 31


def test_a_header_that_would_end_the_process_is_refused(tmp_path):
    path = write_video(tmp_path / "v.avi", codec="mpeg4", frames=12)
    change(path, b"strh", 8 + 32, (4 * 10**9).to_bytes(4, "little"))  # dwLength
    assert find_index(path).promised >= 4 * 10**9
    with pytest.raises(VideoError, match=r"12 frames, where the header promises 4000000"):
        read_frames(path, [0], "decord")
    assert numbers(read_frames(path, [11])) == [11]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4")
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingDependency, match=r"pip install 'apt-edge\[decord\]'"):
        read_frames(path, [0], "decord")
