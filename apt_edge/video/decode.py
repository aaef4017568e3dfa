"""Exact frames out of a video file: packets are indexed by timestamp, because the frame counts in headers lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from apt_edge.errors import VideoError
from apt_edge.video.damage import explain_unreadable, refuse_non_video

TRUSTED_COUNT = "mov,mp4"  # formats whose frame count is the sample table itself, so fewer packets mean a cut file


@dataclass(frozen=True)
class VideoInfo:
    """What a file really holds: frames to show, their size in pixels, mean frames a second (0 = unknown)."""

    frames: int
    width: int
    height: int
    fps: float


@dataclass(frozen=True)
class _Index:
    info: VideoInfo
    pts: np.ndarray | None  # sorted presentation timestamps; None: the file has none that can be trusted
    key_pts: np.ndarray  # of keyframes, sorted
    key_dts: np.ndarray  # decoding timestamp of the same keyframes: what demuxers seek by


def probe(path: str | Path) -> VideoInfo:
    """Count the frames of a video by indexing its packets; nothing is decoded unless the timestamps are unusable.

    Raises:
        VideoError: missing, empty, no video, or cut short (the message says how many of how many frames are left).
    """
    return _index(path).info


def read_frames(path: str | Path, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Decode exactly the frames asked for, counted in presentation order from 0.

    Args:
        path: the video file.
        indices: frame numbers in any order; repeats are allowed.

    Returns:
        uint8 [T, H, W, 3], RGB, one frame for each index.

    Raises:
        VideoError: as `probe`; an index outside the video; damage between the keyframe before the first frame wanted
            and the last frame wanted. A frame is never replaced by another one.
    """
    index = _index(path)
    wanted = np.asarray(indices, dtype=np.int64)
    frames = index.info.frames
    if wanted.ndim != 1 or wanted.size == 0:
        raise VideoError(f"no frame of {path} was asked for", found=f"indices of shape {wanted.shape}")
    if wanted.min() < 0 or wanted.max() >= frames:
        raise VideoError(
            f"frame {wanted.min() if wanted.min() < 0 else wanted.max()} of {path} was asked for",
            found=f"{frames} frames",
            fix=f"use frames 0 to {frames - 1}",
        )
    images = _decode(path, index, set(wanted.tolist()))
    if len({image.shape for image in images.values()}) != 1:
        sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images.values()})
        raise VideoError(f"{path} changes its frame size", found=", ".join(sizes), fix="re-encode it at one size")
    return np.stack([images[i] for i in wanted.tolist()])


def _index(path: str | Path) -> _Index:
    refuse_non_video(Path(path))
    status = os.stat(path)
    return _cached_index(os.fspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)  # callers probe, choose frames and then read: index once
def _cached_index(path: str, mtime_ns: int, size: int) -> _Index:
    with _open(path) as (container, stream):
        packets = [p for p in container.demux(stream) if p.size]
        whole = [p for p in packets if not p.is_corrupt]
        if TRUSTED_COUNT in container.format.name and len(whole) < stream.frames:
            raise _cut_short(path, f"{len(whole)} of {stream.frames} frames can be decoded")
        if len(whole) < len(packets):
            raise _cut_short(path, f"{len(whole)} of {len(packets)} frames can be decoded")
        shown = [p for p in whole if not p.is_discard]  # edit lists hide frames
        pts = [p.pts for p in shown]
        keys = sorted((p.pts, p.dts) for p in whole if p.is_keyframe and p.pts is not None and p.dts is not None)
        usable = bool(keys) and None not in pts and len(set(pts)) == len(pts)
        if usable and stream.codec_context.has_b_frames and pts == sorted(pts):
            usable = False  # AVI stores no presentation times: the demuxer makes them up in decoding order
        order = np.sort(np.array(pts, dtype=np.int64)) if usable else None
        width, height = stream.codec_context.width, stream.codec_context.height
        fps = float(stream.average_rate or 0)
        if order is not None and len(order) > 1 and stream.time_base:
            fps = (len(order) - 1) / float((order[-1] - order[0]) * stream.time_base)
    count = len(shown) if usable else sum(1 for _ in _sequential(path))
    if count == 0:
        raise VideoError(f"{path} holds no frames", found="a video stream without a single packet", fix=_REPLACE)
    info = VideoInfo(count, width, height, round(fps, 6))
    return _Index(info, order, np.array([k[0] for k in keys]), np.array([k[1] for k in keys]))


def _decode(path: str | Path, index: _Index, wanted: set[int]) -> dict[int, np.ndarray]:
    """RGB images by frame number: from the nearest keyframe, or from the start if the seek went wrong."""
    images = _collect(_seeking(path, index, min(wanted), max(wanted)), wanted) if index.pts is not None else {}
    if len(images) < len(wanted):
        images = _collect(_sequential(path, index.pts), wanted)
    if missing := sorted(wanted - set(images)):
        raise VideoError(
            f"{len(missing)} of {len(wanted)} frames of {path} do not decode",
            found=f"frame {missing[0]} is damaged or missing",
            fix=_REPLACE,
        )
    return images


def _collect(frames: Iterator[tuple[int, av.VideoFrame]], wanted: set[int]) -> dict[int, np.ndarray]:
    images: dict[int, np.ndarray] = {}
    for number, frame in frames:
        if number in wanted:
            images[number] = frame.to_ndarray(format="rgb24")
            if len(images) == len(wanted):
                break
    return images


def _seeking(path: str | Path, index: _Index, first: int, last: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames from the keyframe at or before `first` up to `last`."""
    assert index.pts is not None
    with _open(path) as (container, stream):
        key = int(np.searchsorted(index.key_pts, index.pts[first], side="right")) - 1
        if key > 0:
            container.seek(int(index.key_dts[key]), stream=stream, backward=True, any_frame=False)
        for number, frame in _numbered(path, container, stream, index.pts):
            yield number, frame
            if number >= last:
                return


def _sequential(path: str | Path, pts: np.ndarray | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
    with _open(path) as (container, stream):
        yield from _numbered(path, container, stream, pts)


def _numbered(
    path: str | Path, container: Any, stream: Any, pts: np.ndarray | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their numbers: by timestamp where the file has them, else by counting."""
    shown, last = 0, -1
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt:  # later frames may be built on it: nothing after it can be trusted
                    raise VideoError(
                        f"{path} is damaged", found=f"frame {shown if pts is None else frame.pts}", fix=_REPLACE
                    )
                if pts is None:
                    yield shown, frame
                    shown += 1
                elif frame.pts is not None:
                    number = int(np.searchsorted(pts, frame.pts))
                    if number < len(pts) and pts[number] == frame.pts:
                        if number <= last:
                            raise VideoError(f"{path} has timestamps out of order", fix="re-encode it with ffmpeg")
                        last = number
                        yield number, frame
    except av.FFmpegError as error:
        raise VideoError(f"{path} is damaged", found=error.strerror or str(error), fix=_REPLACE) from None


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream, closed on the way out."""
    try:
        container = av.open(os.fspath(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise explain_unreadable(Path(path), error.strerror or str(error)) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not container.streams:
            raise explain_unreadable(Path(path), "no streams")
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams}))
            raise VideoError(f"{path} holds no video stream", found=kinds, fix="leave it out or give the video file")
        streams[0].codec_context.thread_count = 1  # programs decode many files at once, one a process
        yield container, streams[0]


_REPLACE = "get an intact copy of the file, or leave it out of the list"


def _cut_short(path: str, found: str) -> VideoError:
    return VideoError(
        f"{path} is cut short",
        found=found,
        fix=f"{_REPLACE}; to keep what is left on purpose: ffmpeg -i '{path}' -c copy rest.mp4",
    )
