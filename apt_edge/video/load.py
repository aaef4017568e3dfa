"""A video file to the model's input, the deterministic way: what validation, export and prediction all use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.video.decode import frame_range, probe, read_frames
from apt_edge.video.lists import Item
from apt_edge.video.preprocess import normalise, short_side_crop
from apt_edge.video.sampling import clip_indices


def span(video: Item | str | Path, decoder: str = "pyav") -> tuple[Path, int, int]:
    """A video's path, its first frame and how many there are: all of a file, or the segment that an item names.

    Raises:
        VideoError: the file cannot be read, or has no frame in the segment.
    """
    if not isinstance(video, Item):
        video = Item(Path(video), None)
    if video.start is None and video.end is None:
        return video.path, 0, probe(video.path, decoder).frames
    return video.path, *frame_range(video.path, video.start, video.end, decoder)


def sample_frames(video: Item | str | Path, spec: ClipSpec, decoder: str = "pyav") -> np.ndarray:
    """Decode the frames of the clip of validation, uint8 `[T, H, W, 3]`; raises VideoError."""
    path, first, count = span(video, decoder)
    return read_frames(path, first + clip_indices(count, spec, None), decoder)


def load_frames(video: Item | str | Path, spec: ClipSpec, decoder: str = "pyav") -> np.ndarray:
    """The clip of validation as a model sees it, uint8 `[T, S, S, 3]`; raises VideoError."""
    return short_side_crop(sample_frames(video, spec, decoder), spec)


def load_clip(video: Item | str | Path, spec: ClipSpec, decoder: str = "pyav") -> np.ndarray:
    """The clip of validation normalised, float32 `[3, T, S, S]`; raises VideoError."""
    return normalise(load_frames(video, spec, decoder), spec)
