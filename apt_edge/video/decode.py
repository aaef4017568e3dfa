"""Exact frames out of a video file: packets are indexed by timestamp, because the frame counts in headers lie."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from apt_edge.errors import VideoError
from apt_edge.video.damage import explain_unreadable, refuse_non_video

TRUSTED_COUNT = "mov,mp4"  # formats whose frame count is the sample table itself, so fewer packets mean a cut file

Frames = Generator[tuple[int, av.VideoFrame], None, None]


@dataclass(frozen=True)
class VideoInfo:
    """What a file really holds: frames to show, their size in pixels, mean frames a second (0 = unknown)."""

    frames: int
    width: int
    height: int
    fps: float


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    corrupt: bool
    hidden: bool  # by an edit list


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


def verify(path: str | Path) -> VideoInfo:
    """Decode every frame and keep none, to learn before training whether a file is whole; raises as `read_frames`."""
    index = _index(path)
    decoded = sum(1 for _ in _sequential(path, index.pts))
    if decoded < index.info.frames:
        raise VideoError(f"{path} is damaged", found=f"{decoded} of {index.info.frames} frames decode", fix=_REPLACE)
    return index.info


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


def forget() -> None:
    """Drop what is remembered of files: a benchmark reads each as if it were new."""
    _cached_index.cache_clear()


def _index(path: str | Path) -> _Index:
    refuse_non_video(Path(path))
    status = os.stat(path)
    return _cached_index(os.fspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)  # callers probe, choose frames and then read: index once
def _cached_index(path: str, mtime_ns: int, size: int) -> _Index:
    with _open(path) as (container, stream):
        packets = _packets(path, container, stream)
        whole = [p for p in packets if not p.corrupt]
        if TRUSTED_COUNT in container.format.name and len(whole) < stream.frames:
            raise _cut_short(path, f"{len(whole)} of {stream.frames} frames can be decoded")
        if len(whole) < len(packets):
            raise _cut_short(path, f"{len(whole)} of {len(packets)} frames can be decoded")
        pts = [p.pts for p in whole if not p.hidden]
        keys = sorted((p.pts, p.dts) for p in whole if p.key and p.pts is not None and p.dts is not None)
        times = sorted({t for t in pts if t is not None})
        # AVI stores no presentation times: the demuxer makes them up in decoding order, wrong with B-frames.
        invented = stream.codec_context.has_b_frames and pts == times
        order = np.array(times, dtype=np.int64) if keys and len(times) == len(pts) and not invented else None
        width, height = stream.codec_context.width, stream.codec_context.height
        fps = float(stream.average_rate or 0)
        if order is not None and len(order) > 1 and stream.time_base:
            fps = (len(order) - 1) / float((order[-1] - order[0]) * stream.time_base)
    count = len(order) if order is not None else sum(1 for _ in _sequential(path))
    if count == 0:
        raise VideoError(f"{path} holds no frames", found="a video stream without a single packet", fix=_REPLACE)
    info = VideoInfo(count, width, height, round(fps, 6))
    return _Index(info, order, np.array([k[0] for k in keys]), np.array([k[1] for k in keys]))


def _packets(path: str, container: Any, stream: Any) -> list[_Packet]:
    """What the index needs of each packet, without the compressed data."""
    try:
        return [
            _Packet(p.pts, p.dts, p.is_keyframe, p.is_corrupt, p.is_discard) for p in container.demux(stream) if p.size
        ]
    except av.FFmpegError as error:
        raise VideoError(f"{path} is damaged", found=str(error), fix=_REPLACE) from None


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


def _collect(frames: Frames, wanted: set[int]) -> dict[int, np.ndarray]:
    images: dict[int, np.ndarray] = {}
    reformatter = av.video.reformatter.VideoReformatter()  # one scaler for all: setting one up costs more than a frame
    with closing(frames):
        for number, frame in frames:
            if number in wanted:
                images[number] = reformatter.reformat(frame, format="rgb24").to_ndarray()
                if len(images) == len(wanted):
                    break
    return images


def _seeking(path: str | Path, index: _Index, first: int, last: int) -> Frames:
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


def _sequential(path: str | Path, pts: np.ndarray | None = None) -> Frames:
    with _open(path) as (container, stream):
        yield from _numbered(path, container, stream, pts)


def _numbered(path: str | Path, container: Any, stream: Any, pts: np.ndarray | None) -> Frames:
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
        raise VideoError(f"{path} is damaged", found=str(error), fix=_REPLACE) from None


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream, closed on the way out."""
    try:
        container = av.open(os.fspath(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise explain_unreadable(Path(path), str(error)) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not container.streams:
            raise explain_unreadable(Path(path), "no streams")
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams}))
            raise VideoError(f"{path} holds no video stream", found=kinds, fix="leave it out or give the video file")
        if streams[0].codec_context is None:
            raise VideoError(f"{path} uses a codec that this FFmpeg does not know", fix="re-encode it as H.264")
        streams[0].codec_context.thread_count = 1  # programs decode many files at once, one a process
        yield container, streams[0]


_REPLACE = "get an intact copy of the file, or leave it out of the list"


def _cut_short(path: str, found: str) -> VideoError:
    return VideoError(
        f"{path} is cut short",
        found=found,
        fix=f"{_REPLACE}; to keep what is left on purpose: ffmpeg -i '{path}' -c copy rest.mp4",
    )
