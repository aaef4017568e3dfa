"""What a video file holds, from its packets: indexed by timestamp, because the frame counts in headers lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from apt_edge.errors import VideoError
from apt_edge.video.damage import MAX_PIXELS, REPLACE, explain_unreadable, missing_bytes, refuse_non_video
from apt_edge.video.decode import VideoInfo, describe_length

TRUSTED_COUNT = "mov,mp4"  # formats whose frame count is the sample table itself, so fewer packets mean a cut file
LIMIT = {"max_pixels": str(MAX_PIXELS)}  # above it FFmpeg refuses a header before it allocates a frame


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    corrupt: bool
    hidden: bool  # by an edit list


@dataclass(frozen=True)
class Index:
    """Where the frames of a file are; its size is that of the upright picture, `coded` that of the stored one."""

    info: VideoInfo
    coded: tuple[int, int]  # width, height
    tick: Fraction  # seconds a unit of pts; without pts, seconds a frame (0 = unknown)
    pts: np.ndarray | None  # sorted presentation timestamps; None: the file has none that can be trusted
    key_pts: np.ndarray  # of keyframes, sorted
    key_dts: np.ndarray  # decoding timestamp of the same keyframes: what demuxers seek by
    promised: int  # frames by the header, or by its length and rate
    container: str  # FFmpeg's names
    codec: str


def find_index(path: str | Path) -> Index:
    """The index of a file, remembered as long as the file does not change; raises VideoError as `decode.probe`."""
    refuse_non_video(Path(path))
    status = os.stat(path)
    return _cached_index(os.fspath(path), status.st_mtime_ns, status.st_size)


def frame_range(path: str | Path, start: float | None, end: float | None) -> tuple[int, int]:
    """First frame and count of the frames that begin within [start, end) seconds; the count may be 0."""
    index = find_index(path)
    if not index.tick and (start is not None or end is not None):
        fix = "re-encode it with ffmpeg, or leave the segment's times out of the list"
        raise VideoError(f"{path} has neither timestamps nor a frame rate", found=describe_length(index.info), fix=fix)
    times = np.arange(index.info.frames) if index.pts is None else index.pts - index.pts[0]
    # str: a segment from 0.1 s means the decimal number, not the binary one beside it
    first, last = (
        at_none if at is None else int(np.searchsorted(times, ceil(Fraction(str(at)) / index.tick)))
        for at, at_none in ((start, 0), (end, len(times)))
    )
    return first, last - first


def forget() -> None:
    """Drop all indexes."""
    _cached_index.cache_clear()


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream, closed on the way out."""
    try:  # the whole path: what stands before a colon would be taken for a protocol
        container = av.open(os.path.abspath(path), metadata_errors="replace", options=_limit(path))
    except av.FFmpegError as error:
        raise explain_unreadable(Path(path), str(error)) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if container.format.name.endswith("_pipe"):  # FFmpeg would show a picture as a video of one frame
            kind = container.format.name.removesuffix("_pipe").upper()
            raise VideoError(f"{path} is a picture, not a video", found=kind, fix="give the video file")
        if not container.streams:
            raise explain_unreadable(Path(path), "no streams")
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams}))
            raise VideoError(f"{path} holds no video stream", found=kinds, fix="leave it out or give the video file")
        if (codec := streams[0].codec_context) is None:
            raise VideoError(f"{path} uses a codec that this FFmpeg does not know", fix="re-encode it as H.264")
        codec.options = LIMIT
        codec.thread_count = 1  # programs decode many files at once, one a process
        yield container, streams[0]


def _limit(path: str | Path) -> dict[str, str]:
    """LIMIT where the header tells the streams: PyAV 14 crashes over options for streams that follow (MPEG, FLV)."""
    with open(path, "rb") as file:
        head = file.read(8)
    return LIMIT if head[:4] in (b"RIFF", b"\x1aE\xdf\xa3") or head[4:] in (b"ftyp", b"moov", b"mdat", b"wide") else {}


def cut_short(path: str | Path, found: str) -> VideoError:
    """The error for a file whose end is missing."""
    return VideoError(
        f"{path} is cut short",
        found=found,
        fix=f"{REPLACE}; to keep what is left on purpose: ffmpeg -i '{path}' -c copy rest.mp4",
    )


@lru_cache(maxsize=32)  # callers probe, choose frames and then read: index once. An hour of video is a megabyte
def _cached_index(path: str, mtime_ns: int, size: int) -> Index:
    with open_video(path) as (container, stream):
        packets, coded, turns = _scan(path, container, stream)
        whole = [p for p in packets if not p.corrupt]
        if TRUSTED_COUNT in container.format.name and len(whole) < stream.frames:
            raise cut_short(path, f"{len(whole)} of {stream.frames} frames can be decoded")
        if len(whole) < len(packets):
            raise cut_short(path, f"{len(whole)} of {len(packets)} frames can be decoded")
        # AVI writers err about their own size: only what its frame count says as well is believed.
        if (missing := missing_bytes(path)) and (container.format.name != "avi" or len(whole) < stream.frames):
            raise cut_short(path, f"{missing}, {len(whole)} frames")
        if not packets:
            raise VideoError(f"{path} holds no frames", found="a video stream without a single packet", fix=REPLACE)
        if not coded:
            untried = f"frames of more than {MAX_PIXELS} pixels, such as 8192x8192, are not tried"
            raise VideoError(
                f"{path} is damaged", found=f"none of {len(packets)} frames decodes; {untried}", fix=REPLACE
            )
        pts = [p.pts for p in whole if not p.hidden]
        keys = sorted((p.pts, p.dts) for p in whole if p.key and p.pts is not None and p.dts is not None)
        times = sorted({t for t in pts if t is not None})
        # AVI stores no presentation times: the demuxer makes them up in decoding order, wrong with B-frames.
        invented = stream.codec_context.has_b_frames and pts == times
        order = np.array(times, dtype=np.int64) if keys and len(times) == len(pts) and not invented else None
        rate, tick = Fraction(stream.average_rate or 0), Fraction(stream.time_base or 0)
        fps = float(rate)
        promised = max(stream.frames, int((container.duration or 0) * rate / av.time_base))
        names = (container.format.name, stream.codec_context.name)
        if order is None:
            tick = 1 / rate if rate else rate
        elif len(order) > 1 and tick:
            fps = (len(order) - 1) / float(int(order[-1] - order[0]) * tick)
    count = len(order) if order is not None else _count(path)
    if count == 0:
        raise VideoError(f"{path} holds no frames", found="every frame is hidden by an edit list", fix=REPLACE)
    width, height = coded[::-1] if turns % 2 else coded
    info = VideoInfo(count, width, height, round(fps, 6))
    key_pts, key_dts = (np.array([key[i] for key in keys], dtype=np.int64) for i in (0, 1))
    return Index(info, coded, tick, order, key_pts, key_dts, promised, *names)


def _scan(path: str, container: Any, stream: Any) -> tuple[list[_Packet], tuple[int, int] | None, int]:
    """What the index needs of each packet, and size and quarter turns of the first frame that decodes."""
    packets, coded, turns = [], None, 0
    try:
        for packet in container.demux(stream):
            if packet.size:
                packets.append(
                    _Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_corrupt, packet.is_discard)
                )
            if coded is None:
                with suppress(av.FFmpegError):
                    for frame in packet.decode()[:1]:
                        coded, turns = (frame.width, frame.height), quarter_turns(frame)
    except av.FFmpegError as error:
        raise VideoError(f"{path} is damaged", found=str(error), fix=REPLACE) from None
    return packets, coded, turns


def quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that put a frame upright: phones store the sensor's picture and a rotation."""
    return round(frame.rotation / 90) % 4


def _count(path: str) -> int:
    """Frames of a file without usable timestamps, by decoding them all."""
    count = 0
    with open_video(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                count += len(packet.decode())
        except av.FFmpegError as error:
            raise VideoError(f"{path} is damaged", found=str(error), fix=REPLACE) from None
    return count
