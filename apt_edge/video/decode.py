"""Exact frames out of a video: one small interface, behind it a decoder for files and one for frames on disk.

| the path is | read by |
|---|---|
| a video file | `decoders/pyav.py` (the default) or `decoders/decord.py`, whichever is named |
| a folder of pictures, an `.npy` of frames | `decoders/stills.py`, whatever decoder is named |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import ConfigError, VideoError

DECODERS = ("pyav", "decord")


@dataclass(frozen=True)
class VideoInfo:
    """What a video really holds: frames to show, their size in pixels upright, mean frames a second (0 = unknown)."""

    frames: int
    width: int
    height: int
    fps: float


def probe(path: str | Path, decoder: str = "pyav") -> VideoInfo:
    """Count the frames of a video by indexing it; no more than one frame is decoded unless its timestamps are unusable.

    Raises:
        VideoError: missing, empty, no video, or cut short (the message says how many of how many frames are left).
        ConfigError: there is no such decoder.
    """
    return _reader(path, decoder).probe(path)


def verify(path: str | Path, decoder: str = "pyav") -> VideoInfo:
    """Decode every frame and keep none, to learn before training whether a video is whole; raises as `read_frames`."""
    return _reader(path, decoder).verify(path)


def read_frames(path: str | Path, indices: Sequence[int] | np.ndarray, decoder: str = "pyav") -> np.ndarray:
    """Decode exactly the frames asked for, counted in presentation order from 0.

    Args:
        path: a video file, a folder of pictures, or an `.npy` of frames.
        indices: frame numbers in any order; repeats are allowed.
        decoder: of video files, one of `DECODERS`.

    Returns:
        uint8 [T, H, W, 3], RGB, upright as players show it, one frame for each index.

    Raises:
        VideoError: as `probe`; an index outside the video; damage between the keyframe before the first frame wanted
            and the last frame wanted (with `decord`: where it notices). A frame is never replaced by another one.
    """
    reader = _reader(path, decoder)
    frames = reader.probe(path).frames
    wanted = np.asarray(indices, dtype=np.int64)
    if wanted.ndim != 1 or wanted.size == 0:
        raise VideoError(f"no frame of {path} was asked for", found=f"indices of shape {wanted.shape}")
    if wanted.min() < 0 or wanted.max() >= frames:
        raise VideoError(
            f"frame {wanted.min() if wanted.min() < 0 else wanted.max()} of {path} was asked for",
            found=f"{frames} frames",
            fix=f"use frames 0 to {frames - 1}",
        )
    images = reader.read(path, set(wanted.tolist()))
    if len({image.shape for image in images.values()}) != 1:
        raise change_of_size(path, [(image.shape[1], image.shape[0]) for image in images.values()])
    return np.stack([images[i] for i in wanted.tolist()])


def frame_range(path: str | Path, start: float | None, end: float | None, decoder: str = "pyav") -> tuple[int, int]:
    """The frames of a segment: those that begin within [start, end) seconds after the first frame, by timestamp.

    Args:
        path: a video file.
        start, end: seconds; None leaves that end open.
        decoder: as in `read_frames`.

    Returns:
        Number of the first frame, count of frames.

    Raises:
        VideoError: as `probe`; no frame begins in the segment; pictures on disk, which have no times.
    """
    first, count = _reader(path, decoder).frame_range(path, start, end)
    if count < 1:
        span = f"from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}"
        raise VideoError(
            f"{path} shows no frame {span}",
            found=describe_length(probe(path, decoder)),
            fix="correct the segment in the list, or leave it out",
        )
    return first, count


def forget() -> None:
    """Drop what is remembered of files: a benchmark reads each as if it were new."""
    for name in ("packets", "stills"):
        import_module(f"apt_edge.video.decoders.{name}").forget()


def describe_length(info: VideoInfo) -> str:
    """Length of a video for people."""
    return f"{info.frames} frames" + (f", about {info.frames / info.fps:.2f} s" if info.fps else "")


def change_of_size(path: str | Path, sizes: Sequence[tuple[int, int]]) -> VideoError:
    """The error for a video whose frames, (width, height) each, are not all of one size."""
    found = ", ".join(f"{width}x{height}" for width, height in sorted(set(sizes)))
    return VideoError(f"{path} changes its frame size", found=found, fix="re-encode it at one size")


def _reader(path: str | Path, decoder: str) -> Any:
    """The module that reads this path; each has probe, verify, read and frame_range. Imported late: codecs may lack."""
    if decoder not in DECODERS:
        raise ConfigError(f"there is no decoder {decoder!r}", fix=f"use one of: {', '.join(DECODERS)}")
    path = Path(path)
    stills = path.suffix.lower() == ".npy" or path.is_dir()
    return import_module(f"apt_edge.video.decoders.{'stills' if stills else decoder}")
