"""Sixty files of twelve kinds as data sets have them: damaged ones, and odd ones that are nevertheless good."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.apt_edge.video_files import write_audio, write_video

ROOT_USER = hasattr(os, "geteuid") and os.geteuid() == 0  # whom no permission stops


@dataclass(frozen=True)
class File:
    """A file, what is odd about it, and what reading it must end in: a number of frames or a reason."""

    kind: str
    path: Path
    frames: int | None = None  # None: it is bad
    reason: str = ""  # of a bad file, a regular expression
    size: tuple[int, int] | None = None  # width and height, upright


def write_files(folder: Path) -> list[File]:
    """Make all sixty in `folder`, five of a kind."""
    makers = (
        truncated, zeros, wrong_container, audio_only, one_frame, odd_size, rotated, variable_rate, ten_bits,
        huge_header, difficult_name, unreadable,
    )  # fmt: skip
    files = []
    for make in makers:
        place = folder / make.__name__
        place.mkdir(parents=True)
        files += make(place)
    return files


def encode(
    path: Path, codec: str, pixels: str = "yuv420p", size: tuple[int, int] = (72, 48), frames: int = 12,
    times: list[int] | None = None, rotation: int | None = None, mirror: bool = False, **options: str,
) -> Path:  # fmt: skip
    """Encode a picture of coloured blocks that moves; sharp colours show differences in chroma."""
    blocks_THWC = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    rows, columns = (np.arange(length) * cells // length for length, cells in zip(size[::-1], (6, 9), strict=True))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirror)
        for i in range(frames):
            picture = np.ascontiguousarray(np.roll(blocks_THWC, i, axis=1)[rows][:, columns])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncated(folder: Path) -> list[File]:
    """Cut at random offsets."""
    rng = np.random.default_rng(7)
    files = []
    for name, codec, faststart, reason in (
        ("plain.mp4", "libx264", False, "moov"),
        ("faststart.mp4", "libx264", True, r"cut short|moov"),
        ("cut.avi", "mpeg4", False, "cut short"),
        ("cut.mkv", "libx264", False, "cut short"),
        ("cut.webm", "libvpx-vp9", False, "cut short"),
    ):
        path = write_video(folder / name, frames=60, codec=codec, faststart=faststart)
        data = path.read_bytes()
        path.write_bytes(data[: int(rng.integers(len(data) // 3, len(data) * 19 // 20))])
        files.append(File("truncated", path, reason=reason))
    return files


def zeros(folder: Path) -> list[File]:
    """No bytes, or bytes that are all zero, as an interrupted download leaves behind."""
    files = []
    for name in ("empty.mp4", "empty.avi", "empty.webm"):
        (folder / name).touch()
        files.append(File("zeros", folder / name, reason="0 bytes"))
    (folder / "allocated.mp4").write_bytes(bytes(20_000))
    files.append(File("zeros", folder / "allocated.mp4", reason="cannot be read as a video"))
    half = write_video(folder / "half.mp4", frames=60, faststart=True)
    data = bytearray(half.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    half.write_bytes(data)
    return [*files, File("zeros", half, reason="damaged|do not decode")]


def wrong_container(folder: Path) -> list[File]:
    """Names that promise something else than the file is."""
    (folder / "page.mp4").write_text("<html><body>404 Not Found</body></html>")
    (folder / "archive.avi").write_bytes(gzip.compress(np.random.default_rng(0).bytes(3000)))
    picture = encode(folder / "picture.png", "png", "rgb24", frames=1).rename(folder / "picture.mp4")
    return [
        File("wrong container", folder / "page.mp4", reason="text file"),
        File("wrong container", folder / "archive.avi", reason="cannot be read as a video"),
        File("wrong container", picture, reason="is a picture"),
        File("wrong container", write_video(folder / "a.mkv").rename(folder / "matroska.mp4"), 40),
        File("wrong container", write_video(folder / "a.mp4").rename(folder / "mp4.avi"), 40),
    ]


def audio_only(folder: Path) -> list[File]:
    """Sound without a picture."""
    names = ("a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi")
    return [File("audio only", write_audio(folder / name), reason="no video stream|cannot be read") for name in names]


def one_frame(folder: Path) -> list[File]:
    """A single frame."""
    codecs = {"a.mp4": "libx264", "a.mkv": "libx264", "a.avi": "mpeg4", "a.webm": "libvpx-vp9", "a.mov": "mpeg4"}
    return [
        File("one frame", write_video(folder / name, frames=1, codec=codec), 1, size=(72, 48))
        for name, codec in codecs.items()
    ]


def odd_size(folder: Path) -> list[File]:
    """Sizes that are no multiple of two."""
    files = []
    for name, codec, pixels, size in (
        ("a.mp4", "libx264", "yuv444p", (95, 63)),
        ("a.webm", "libvpx-vp9", "yuv420p", (95, 63)),
        ("a.avi", "mpeg4", "yuv420p", (71, 49)),
        ("b.avi", "mjpeg", "yuvj420p", (33, 31)),
        ("a.mkv", "ffv1", "yuv420p", (17, 15)),
    ):
        files.append(File("odd size", encode(folder / name, codec, pixels, size), 12, size=size))
    return files


def rotated(folder: Path) -> list[File]:
    """As phones write: the picture of the sensor, and how it is to be turned."""
    turns = {0: (72, 48), 90: (48, 72), 180: (72, 48), 270: (48, 72)}
    files = [
        File("rotated", encode(folder / f"{turn}.mp4", "libx264", rotation=turn), 12, size=size)
        for turn, size in turns.items()
    ]
    mirrored = encode(folder / "mirrored.mov", "mpeg4", rotation=0, mirror=True)
    return [*files, File("rotated", mirrored, 12, size=(72, 48))]


def variable_rate(folder: Path) -> list[File]:
    """Frames at uneven times."""
    slower = [i * (i + 3) // 4 for i in range(1, 41)]
    gap = [i + 5000 * (i > 20) for i in range(40)]
    late = [i * 3 + 700 - i % 2 for i in range(40)]
    return [
        File("variable rate", write_video(folder / name, codec=codec, times=times), 40)
        for name, codec, times in (
            ("slower.mp4", "libx264", slower),
            ("gap.mp4", "libx264", gap),
            ("late.mp4", "libx264", late),
            ("slower.mkv", "libx264", slower),
            ("gap.webm", "libvpx-vp9", gap),
        )
    ]


def ten_bits(folder: Path) -> list[File]:
    """More than eight bits a sample."""
    files = []
    for name, codec, pixels, options in (
        ("h264.mp4", "libx264", "yuv420p10le", {}),
        ("h265.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("av1.mp4", "libsvtav1", "yuv420p10le", {"svtav1-params": "lp=1", "preset": "12"}),
        ("prores.mov", "prores_ks", "yuv422p10le", {}),
        ("ffv1.mkv", "ffv1", "yuv444p10le", {}),
    ):
        files.append(File("ten bits", encode(folder / name, codec, pixels, **options), 12, size=(72, 48)))
    return files


def huge_header(folder: Path) -> list[File]:
    """Headers that promise frames of gigabytes; the first file's frames tell the truth, so it is good."""
    box = write_video(folder / "box.mp4", frames=5)
    change(box, b"avc1\0\0", 28, (65500).to_bytes(2, "big") * 2)
    element = encode(folder / "element.mkv", "ffv1", size=(272, 258), frames=5)
    change(element, b"\xb0\x82\x01\x10\xba\x82\x01\x02", 0, b"\xb0\x82\x27\x10\xba\x82\x27\x10")  # 0x2710: 10000
    bitmap = encode(folder / "bitmap.avi", "rawvideo", "bgr24", frames=5)
    change(bitmap, b"strf", 12, (10000).to_bytes(4, "little") * 2)
    jpeg = encode(folder / "jpeg.avi", "mjpeg", "yuvj420p", frames=5)
    change(jpeg, b"\xff\xc0\0\x11", 5, (16000).to_bytes(2, "big") * 2, every=True)
    vp8 = encode(folder / "vp8.webm", "libvpx", frames=5)
    change(vp8, b"\x9d\x01\x2a", 3, (16000).to_bytes(2, "little") * 2)
    bad = [File("huge header", path, reason="8192x8192") for path in (element, bitmap, jpeg, vp8)]
    return [File("huge header", box, 5, size=(72, 48)), *bad]


def change(path: Path, mark: bytes, offset: int, to: bytes, every: bool = False) -> None:
    """Overwrite bytes at `offset` after the start of a mark that the file holds, at its first place or at every one."""
    data = bytearray(path.read_bytes())
    place = data.index(mark)
    while place >= 0:
        data[place + offset : place + offset + len(to)] = to
        place = data.find(mark, place + 1) if every else -1
    path.write_bytes(data)


def difficult_name(folder: Path) -> list[File]:
    """Spaces, letters beyond ASCII, and what FFmpeg gives a meaning to."""
    names = ("two  words [a] (b).mp4", "клип 走る é 🎬.mp4", "12:30.mp4", "100%05d%.mp4", "it's \"a\", 'b' & c#1?.mp4")
    return [File("difficult name", write_video(folder / name), 40, size=(72, 48)) for name in names]


def unreadable(folder: Path) -> list[File]:
    """What the operating system does not let anyone read."""
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    os.mkfifo(folder / "pipe.mp4")
    files = [
        File("unreadable", folder / "folder.mp4", reason="folder without pictures"),
        File("unreadable", folder / "dangling.mp4", reason="link to nothing"),
        File("unreadable", folder / "circle.mp4", reason="cannot be opened"),
        File("unreadable", folder / "pipe.mp4", reason="neither a file nor a folder"),
    ]
    if ROOT_USER:
        (folder / "null.mp4").symlink_to("/dev/null")
        return [*files, File("unreadable", folder / "null.mp4", reason="neither a file nor a folder")]
    secret = write_video(folder / "secret.mp4")
    secret.chmod(0)
    return [*files, File("unreadable", secret, reason="Permission denied")]
