"""Video files with PyAV: notices damage, and gives exact frames whatever the container's header says."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np

from apt_edge.errors import VideoError
from apt_edge.video.damage import REPLACE
from apt_edge.video.decode import VideoInfo, change_of_size
from apt_edge.video.decoders.packets import Index, find_index, frame_range, open_video, quarter_turns

__all__ = ["frame_range", "probe", "read", "verify"]

Frames = Generator[tuple[int, av.VideoFrame], None, None]


def probe(path: str | Path) -> VideoInfo:
    """See `decode.probe`."""
    return find_index(path).info


def verify(path: str | Path) -> VideoInfo:
    """See `decode.verify`."""
    index = find_index(path)
    decoded = sum(1 for _ in _sequential(path, index))
    if decoded < index.info.frames:
        raise VideoError(f"{path} is damaged", found=f"{decoded} of {index.info.frames} frames decode", fix=REPLACE)
    return index.info


def read(path: str | Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """RGB images by frame number: from the nearest keyframe, or from the start if the seek went wrong."""
    index = find_index(path)
    images = _collect(_seeking(path, index, min(wanted), max(wanted)), wanted) if index.pts is not None else {}
    if len(images) < len(wanted):
        images = _collect(_sequential(path, index), wanted)
    if missing := sorted(wanted - set(images)):
        raise VideoError(
            f"{len(missing)} of {len(wanted)} frames of {path} do not decode",
            found=f"frame {missing[0]} is damaged or missing",
            fix=REPLACE,
        )
    return images


def _collect(frames: Frames, wanted: set[int]) -> dict[int, np.ndarray]:
    images: dict[int, np.ndarray] = {}
    convert: Callable[[av.VideoFrame], np.ndarray] | None = None
    with closing(frames):
        for number, frame in frames:
            if number in wanted:
                convert = convert or converter(frame)
                images[number] = convert(frame)
                if len(images) == len(wanted):
                    break
    return images


def converter(first: Any) -> Callable[[Any], np.ndarray]:
    """A function from frames like `first` to upright RGB.

    FFmpeg's own scale filter, as in players and in decord, because PyAV's reformatter passes over the position of the
    chroma samples: it differs by up to a fifth of the range where sizes are odd or samples have ten bits.
    """
    graph = av.filter.Graph()
    source = graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=first.time_base)
    nodes = [source, graph.add("scale", "threads=1"), graph.add("format", "rgb24"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()

    def convert(frame: Any) -> np.ndarray:
        turns = quarter_turns(frame)
        graph.push(frame)
        return np.rot90(graph.pull().to_ndarray(), turns)

    return convert


def _seeking(path: str | Path, index: Index, first: int, last: int) -> Frames:
    """Frames from the keyframe at or before `first` up to `last`."""
    assert index.pts is not None
    with open_video(path) as (container, stream):
        key = int(np.searchsorted(index.key_pts, index.pts[first], side="right")) - 1
        if key > 0:
            container.seek(int(index.key_dts[key]), stream=stream, backward=True, any_frame=False)
        for number, frame in _numbered(path, container, stream, index):
            yield number, frame
            if number >= last:
                return


def _sequential(path: str | Path, index: Index) -> Frames:
    with open_video(path) as (container, stream):
        yield from _numbered(path, container, stream, index)


def _numbered(path: str | Path, container: Any, stream: Any, index: Index) -> Frames:
    """Decoded frames with their numbers: by timestamp where the file has them, else by counting."""
    shown, last, pts = 0, -1, index.pts
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt:  # later frames may be built on it: nothing after it can be trusted
                    raise VideoError(
                        f"{path} is damaged", found=f"frame {shown if pts is None else frame.pts}", fix=REPLACE
                    )
                if (frame.width, frame.height) != index.coded:
                    raise change_of_size(path, [index.coded, (frame.width, frame.height)])
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
        raise VideoError(f"{path} is damaged", found=str(error), fix=REPLACE) from None
