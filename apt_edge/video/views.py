"""Several views of one video: clips along time and crops along the longer side, whose scores a test averages.

Shapes: T frames, H height, W width, S model input size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.video.decode import read_frames
from apt_edge.video.lists import Item
from apt_edge.video.load import span
from apt_edge.video.preprocess import resize, short_side, short_side_crop
from apt_edge.video.sampling import test_indices

MOST_CLIPS = 64


@dataclass(frozen=True)
class Views:
    """How often a video is looked at: `5x3` are five clips along time with three crops each.

    Attributes:
        clips: along time; one is the clip of validation.
        crops: one in the middle, or three along the longer side: its beginning, its middle and its end.
    """

    clips: int = 1
    crops: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.clips <= MOST_CLIPS:
            raise ConfigError(f"views have 1 to {MOST_CLIPS} clips along time", found=str(self), fix="use 5x3, or 1x1")
        if self.crops not in (1, 3):
            raise ConfigError("views have 1 or 3 crops", found=str(self), fix=f"use {self.clips}x1 or {self.clips}x3")

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"

    @classmethod
    def parse(cls, text: str) -> Views:
        """Read `5x3`; raises ConfigError."""
        match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
        if not match:
            raise ConfigError("views are written as clips x crops", found=repr(text), fix="write for example 5x3")
        return cls(int(match[1]), int(match[2]))

    def check(self, spec: ClipSpec) -> None:
        """Raise ConfigError where clips of this spec have no such views."""
        test_indices(1, spec, self.clips)


def crops_of(frames_THWC: np.ndarray, spec: ClipSpec, crops: int) -> list[np.ndarray]:
    """Scale the shorter side to S and cut squares out along the longer one.

    One crop is that of `short_side_crop`. Of three, crop j begins at pixel `int(j * (long - S) / 2)`.

    Args:
        frames_THWC: uint8 [T, H, W, 3].
        spec: gives the size S.
        crops: 1 or 3.

    Returns:
        `crops` arrays, uint8 [T, S, S, 3].
    """
    if crops == 1:
        return [short_side_crop(frames_THWC, spec)]
    _, old_height, old_width, _ = frames_THWC.shape
    height, width = short_side(old_height, old_width, spec)
    whole = resize(frames_THWC, height, width)
    starts = [j * (max(height, width) - spec.size) // 2 for j in range(crops)]
    if height > width:
        return [whole[:, start : start + spec.size] for start in starts]
    return [whole[:, :, start : start + spec.size] for start in starts]


def load_view(video: Item | str | Path, spec: ClipSpec, views: Views, clip: int, decoder: str = "pyav") -> np.ndarray:
    """The crops of one of the clips of a video, uint8 `[crops, T, S, S, 3]`; raises VideoError."""
    path, first, count = span(video, decoder)
    indices = first + test_indices(count, spec, views.clips)[clip]
    return np.stack(crops_of(read_frames(path, indices, decoder), spec, views.crops))


def load_views(video: Item | str | Path, spec: ClipSpec, views: Views, decoder: str = "pyav") -> Iterator[np.ndarray]:
    """`load_view` of one clip after another: no more than one is held in memory."""
    return (load_view(video, spec, views, clip, decoder) for clip in range(views.clips))
