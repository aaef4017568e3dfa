"""Frames without a codec: folders of pictures and .npy files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from apt_edge.errors import VideoError
from apt_edge.video.decode import DECODERS, VideoInfo, forget, frame_range, probe, read_frames, verify


def pictures(count: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def save(frames_THWC: np.ndarray, folder, pattern: str):
    folder.mkdir(exist_ok=True)
    for i, frame in enumerate(frames_THWC):
        Image.fromarray(frame).save(folder / pattern.format(i + 1))
    return folder


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("pattern", ["img_{:05d}.png", "{}.bmp", "frame{}.PNG", "v 2 - {:02d}.png"])
def test_numbers_give_the_order(tmp_path, pattern, decoder):
    frames = pictures(12)
    folder = save(frames, tmp_path / "vidéo 1", pattern)
    assert probe(folder, decoder) == verify(folder, decoder) == VideoInfo(12, 8, 6, 0.0)
    np.testing.assert_array_equal(read_frames(folder, [11, 0, 9, 9, 10], decoder), frames[[11, 0, 9, 9, 10]])


def test_jpeg_webp_grey_and_what_is_left_out(tmp_path):
    frames = pictures(3)
    for extension in ("jpg", "webp"):
        folder = save(frames, tmp_path / extension, "{:03d}." + extension)
        expected = [np.asarray(Image.open(folder / f"{i:03d}.{extension}").convert("RGB")) for i in (1, 2, 3)]
        for name in ("flow_x_00001.jpg", "flow_y_00001.jpg", "._001.jpg"):
            Image.new("L", (3, 3)).save(folder / name)
        (folder / "notes.txt").write_text("taken in May")
        np.testing.assert_array_equal(read_frames(folder, [0, 1, 2]), np.stack(expected))
    grey = tmp_path / "grey"
    grey.mkdir()
    Image.fromarray(frames[0, :, :, 0]).save(grey / "1.png")
    assert read_frames(grey, [0])[0, :, :, 2].tolist() == frames[0, :, :, 0].tolist()


def test_sizes_that_differ_and_damaged_pictures_are_refused(tmp_path):
    mixed = save(pictures(4), tmp_path / "mixed", "{}.png")
    Image.new("RGB", (9, 6)).save(mixed / "3.png")
    assert len(read_frames(mixed, [0, 1, 3])) == 3
    for call in (verify, lambda path: read_frames(path, [1, 2])):
        with pytest.raises(VideoError, match=r"changes its frame size\n.*8x6, 9x6"):
            call(mixed)
    damaged = save(pictures(3, 60, 80), tmp_path / "damaged", "{}.png")
    for name, change in {
        "cut": lambda data: data[: len(data) // 2],
        "text": lambda data: b"no picture",
        "empty": lambda data: b"",
        "garbled": lambda data: data[:200] + bytes(600) + data[800:],
    }.items():
        save(pictures(3, 60, 80), tmp_path / "damaged", "{}.png")
        (damaged / "2.png").write_bytes(change((damaged / "2.png").read_bytes()))
        for call in (verify, lambda path: read_frames(path, [0, 1])):
            with pytest.raises(VideoError, match=r"2.png cannot be read as a picture"):
                call(damaged)
        assert len(read_frames(damaged, [0, 2])) == 2, name
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.full((6, 8), 40000, np.uint16)).save(deep / "1.png")
    with pytest.raises(VideoError, match="more than 8 bits"):
        probe(deep)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VideoError, match="folder without pictures"):
        probe(empty)


def test_a_picture_that_promises_gigabytes_is_refused_by_its_header(tmp_path):
    folder = save(pictures(1), tmp_path / "huge", "{}.bmp")
    data = bytearray((folder / "1.bmp").read_bytes())
    data[18:26] = (9000).to_bytes(4, "little") * 2
    (folder / "1.bmp").write_bytes(data)
    with pytest.raises(VideoError, match=r"9000x9000 pixels\n.*8192x8192"):
        probe(folder)


def test_a_folder_that_changes_is_listed_again(tmp_path):
    folder = save(pictures(3), tmp_path / "v", "{}.png")
    assert probe(folder).frames == 3
    save(pictures(5), folder, "{}.png")
    forget()
    assert probe(folder).frames == 5


def test_an_npy_is_mapped_and_never_unpickled(tmp_path):
    frames = pictures(7)
    np.save(tmp_path / "v.npy", frames)
    assert verify(tmp_path / "v.npy") == VideoInfo(7, 8, 6, 0.0)
    np.testing.assert_array_equal(read_frames(tmp_path / "v.npy", [6, 0, 6]), frames[[6, 0, 6]])
    bad = {
        "floats": frames.astype(np.float32),
        "grey": frames[..., 0],
        "channels first": frames.transpose(0, 3, 1, 2),
        "none": frames[:0],
    }
    for name, array in bad.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(VideoError, match="holds no frames"):
            probe(tmp_path / f"{name}.npy")
    marker = tmp_path / "executed"
    np.save(tmp_path / "object.npy", np.array([Executes(str(marker))], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Executes(str(marker))))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:300])
    (tmp_path / "huge.npy").write_bytes(
        (tmp_path / "v.npy").read_bytes().replace(b"(7, 6, 8, 3), }", b"(7, 60000, 60000, 3), }").ljust(200)
    )
    (tmp_path / "empty.npy").touch()
    for name in ("object", "pickle", "cut", "huge", "empty"):
        with pytest.raises(VideoError, match=r"cannot be read as an \.npy"):
            probe(tmp_path / f"{name}.npy")
    assert not marker.exists()
    with pytest.raises(VideoError, match="does not exist"):
        probe(tmp_path / "gone.npy")


class Executes:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_frames_on_disk_have_no_times(tmp_path):
    np.save(tmp_path / "v.npy", pictures(7))
    assert frame_range(tmp_path / "v.npy", None, None) == (0, 7)
    for path in (tmp_path / "v.npy", save(pictures(3), tmp_path / "v", "{}.png")):
        with pytest.raises(VideoError, match="has no times") as caught:
            frame_range(path, 0.0, 1.0)
        assert "video file" in caught.value.fix
