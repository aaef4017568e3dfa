"""Video files with decord (decord2 or decord 0.6), for those whose published numbers came from it.

PyAV's packet index says how many frames there are, so that a file is whole or cut short whatever the decoder, and the
same number means the same frame. What was measured with decord2 3.4.0 and decord 0.6.0 against PyAV 18.1 and 14.2:

* Pixels are equal, difference 0: H.264, H.265, VP8, VP9, AV1, MPEG-4, ProRes, FFV1; MP4, MOV, Matroska, WebM, AVI;
  B-frames, variable rate, rotation, and with decord2 odd sizes and ten bits, too. decord 0.6 (FFmpeg 4.1) differs by up
  to a third of the range at edges of colour where a size is odd or 4:2:0 has ten bits, and does not know AV1.
* Damage: decord reads what its FFmpeg conceals. Of 60 copies of an H.264 file with four bytes inverted each, PyAV
  refused 58 and decord returned 56 with wrong pixels; of MPEG-4, 52 and 53. It only notices packets that do not decode
  at all. Neither sees what VP9 and MJPEG decode to something: 24 and 25 of 60. For data that may be damaged: pyav.
* decord's seeking gives neighbours of the frame that was asked for, without a word: MPEG-4 with B-frames in any
  container, every H.264 in AVI, H.265, MPEG-2. So it seeks in `SEEKABLE` files alone; others are read from the start.
* Refused though PyAV reads them: MPEG-TS (wrong frames with B-frames); files whose length it cannot find, such as
  single frames in Matroska and WebM; some H.265. A header that promises 4e9 frames would end the process
  (std::bad_alloc): such a file is refused before decord opens it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import MissingDependency, VideoError
from apt_edge.video.damage import REPLACE
from apt_edge.video.decode import VideoInfo
from apt_edge.video.decoders.packets import Index, find_index, frame_range

__all__ = ["frame_range", "probe", "read", "verify"]

PLACE = re.compile(r"\[\d+:\d+:\d+\] \S+:\d+: ")
SEEKABLE = (("mov,mp4", "matroska"), ("h264", "vp8", "vp9", "av1", "libdav1d"))
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
    if not _seeks_exactly(find_index(path)):
        return {number: image for number, image in enumerate(_frames(path, range(numbers[-1] + 1))) if number in wanted}
    return dict(zip(numbers, _frames(path, numbers), strict=True))


def _seeks_exactly(index: Index) -> bool:
    return index.container.startswith(SEEKABLE[0]) and index.codec in SEEKABLE[1]


def _frames(path: str | Path, numbers: Iterable[int]) -> Iterator[np.ndarray]:
    """The frames of these numbers, which rise; where they follow each other decord does not seek."""
    index = find_index(path)
    info, place = index.info, 0
    if index.container == "mpegts":
        raise _refused(path, "MPEG-TS, of which it gives other frames than those asked for")
    if index.promised > MAX_PROMISED:
        raise _refused(path, f"{info.frames} frames, where the header promises {index.promised}")
    decord = _decord()
    try:
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1, fault_tol=ANY_LOSS)
        if len(reader) != info.frames:
            raise _refused(path, f"it counts {len(reader)} frames where {info.frames} are shown")
        for number in numbers:
            if number != place:
                reader.seek_accurate(number)
            place = number + 1
            image = _rgb(reader.next().asnumpy(), info.width)
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
