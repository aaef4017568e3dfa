"""Video files with decord, for those whose published numbers came from it. PyAV's packet index says what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import MissingDependency, VideoError
from apt_edge.video.damage import REPLACE
from apt_edge.video.decode import VideoInfo
from apt_edge.video.decoders.packets import find_index, frame_range

__all__ = ["frame_range", "probe", "read", "verify"]

PLACE = re.compile(r"\[\d+:\d+:\d+\] \S+:\d+: ")
MAX_PROMISED = 10**7  # frames; decord takes memory for as many as the header says, and ends the process without it
ANY_LOSS = 1e-9  # decord's fault_tol, a share of the frames: one that does not decode is not replaced by its neighbour


def probe(path: str | Path) -> VideoInfo:
    """See `decode.probe`; decord has no part in it."""
    return find_index(path).info


def verify(path: str | Path) -> VideoInfo:
    """See `decode.verify`."""
    info = find_index(path).info
    for _ in _frames(path, range(info.frames)):
        pass
    return info


def read(path: str | Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """RGB images by frame number."""
    numbers = sorted(wanted)
    return dict(zip(numbers, _frames(path, numbers), strict=True))


def _frames(path: str | Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    index = find_index(path)
    info = index.info
    if index.promised > MAX_PROMISED:
        raise _refused(path, f"{info.frames} frames, where the header promises {index.promised}")
    decord = _decord()
    try:
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1, fault_tol=ANY_LOSS)
        if len(reader) != info.frames:
            raise _refused(path, f"it counts {len(reader)} frames where {info.frames} are shown")
        for number in numbers:
            image = _rgb(reader[number].asnumpy(), info.width)
            if image.shape != (info.height, info.width, 3):
                raise _refused(path, f"frame {number} has the shape {image.shape}, the file {info.width}x{info.height}")
            yield image
    except VideoError:
        raise
    except Exception as error:  # decord's own errors have no common class: DECORDError, RuntimeError, AssertionError
        raise _refused(path, _reason(error)) from None


def _rgb(image: np.ndarray, width: int) -> np.ndarray:
    """Without decord's padding: where rows padded to 128 bytes are a multiple of the width (16, 32, 64, 96) it takes
    the padding for a fourth channel."""
    if image.ndim != 3 or image.shape[1] != width or image.shape[2] <= 3:
        return image
    height = len(image)
    return image.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _decord() -> Any:
    try:
        import decord
    except ImportError:
        raise MissingDependency(
            "the decoder decord is not installed", fix="pip install 'apt-edge[decord]', or use the decoder pyav"
        ) from None
    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's remarks on every damaged packet
    return decord


def _refused(path: str | Path, found: str) -> VideoError:
    return VideoError(f"decord cannot read {path}", found=found, fix=f"use the decoder pyav, or {REPLACE}")


def _reason(error: Exception) -> str:
    """The first line of decord's message without times and places in its source code."""
    lines = PLACE.sub("", str(error)).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
