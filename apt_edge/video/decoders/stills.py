"""Frames that need no codec: a folder of numbered pictures, or an `.npy` of uint8 [T, H, W, 3]. They have no times."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import MissingDependency, VideoError
from apt_edge.video.damage import REPLACE, explain_missing, refuse_size
from apt_edge.video.decode import VideoInfo, change_of_size

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FLOW = re.compile(r"flow[_-][xy]", re.IGNORECASE)  # optical flow lies in the same folders of published layouts
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits: it would cut them instead of scaling


def probe(path: str | Path) -> VideoInfo:
    """See `decode.probe`; of a folder the first picture's header is read."""
    path = Path(path)
    if not path.is_dir():
        frames_THWC = _mapped(path)
        count, height, width = frames_THWC.shape[:3]
        return VideoInfo(count, width, height, 0.0)
    names = _pictures(path)
    width, height = _size(path / names[0])
    return VideoInfo(len(names), width, height, 0.0)


def verify(path: str | Path) -> VideoInfo:
    """See `decode.verify`."""
    path, info = Path(path), probe(path)
    if path.is_dir():
        for name in _pictures(path):
            found = _picture(path / name).shape
            if found[:2] != (info.height, info.width):
                raise change_of_size(path, [(info.width, info.height), (found[1], found[0])])
    return info


def read(path: str | Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """RGB images by frame number."""
    path = Path(path)
    if not path.is_dir():
        frames_THWC = _mapped(path)
        return {number: np.asarray(frames_THWC[number]) for number in wanted}
    names = _pictures(path)
    return {number: _picture(path / names[number]) for number in sorted(wanted)}


def frame_range(path: str | Path, start: float | None, end: float | None) -> tuple[int, int]:
    """All frames; a segment in seconds raises VideoError."""
    if start is not None or end is not None:
        raise VideoError(
            f"{path} has no times, so a segment in seconds cannot be found in it",
            found="a folder of pictures" if Path(path).is_dir() else "an .npy of frames",
            fix="leave start and end out of the list, or give the video file",
        )
    return 0, probe(path).frames


def forget() -> None:
    """Drop all listings of folders."""
    _listed.cache_clear()


def _pictures(folder: Path) -> tuple[str, ...]:
    """Names of the frames in the order of their numbers: `frame10` comes after `frame9`."""
    try:
        names = _listed(os.fspath(folder), folder.stat().st_mtime_ns)
    except OSError as error:
        raise explain_missing(folder, error) from None
    if not names:
        raise VideoError(
            f"{folder} is a folder without pictures", found=f"no {', '.join(PICTURES)}", fix="give a video file"
        )
    return names


@lru_cache(maxsize=32)
def _listed(folder: str, mtime_ns: int) -> tuple[str, ...]:
    names = (name for name in os.listdir(folder) if name.lower().endswith(PICTURES))
    return tuple(sorted((name for name in names if not name.startswith(".") and not FLOW.match(name)), key=_natural))


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", Path(name).stem)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as picture:
        return picture.size


def _picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]."""
    with _opened(path) as picture:
        try:
            return np.asarray(picture.convert("RGB"))
        except Exception as error:  # what damaged pictures raise has no common class: OSError, SyntaxError, zlib.error
            raise _damaged(path, error) from None


def _opened(path: Path) -> Any:
    """A Pillow picture of which only the header is read."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency("folders of frames are read with Pillow", fix="pip install 'pillow>=10'") from None
    try:
        picture = Image.open(path)
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path} promises too many pixels", found=str(error), fix=REPLACE) from None
    except Exception as error:  # as above
        raise _damaged(path, error) from None
    refuse_size(path, *picture.size)
    if picture.mode.split(";")[0] in DEEP:
        raise VideoError(
            f"{path} has more than 8 bits a sample", found=f"mode {picture.mode}", fix="extract the frames as 8 bits"
        )
    return picture


def _damaged(path: Path, error: Exception) -> VideoError:
    return VideoError(f"{path} cannot be read as a picture", found=str(error) or type(error).__name__, fix=REPLACE)


def _mapped(path: Path) -> np.ndarray:
    """The frames of an `.npy`, mapped: what is not asked for is not read, and nothing is ever unpickled."""
    try:
        frames_THWC = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise explain_missing(path, error) from None
    except Exception as error:  # a damaged header raises ValueError, EOFError, SyntaxError, OverflowError
        raise VideoError(f"{path} cannot be read as an .npy", found=str(error), fix=REPLACE) from None
    shape = "x".join(map(str, frames_THWC.shape))
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise VideoError(
            f"{path} holds no frames", found=f"{frames_THWC.dtype} {shape}", fix="save uint8 [T, H, W, 3], RGB"
        )
    if not len(frames_THWC):
        raise VideoError(f"{path} holds no frames", found=shape, fix=REPLACE)
    refuse_size(path, frames_THWC.shape[2], frames_THWC.shape[1])
    return frames_THWC
