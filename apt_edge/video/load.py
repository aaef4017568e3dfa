"""A video file to the model's input, the deterministic way: what validation, export and prediction all use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.video.decode import probe, read_frames
from apt_edge.video.preprocess import normalise, short_side_crop
from apt_edge.video.sampling import clip_indices


def sample_frames(path: str | Path, spec: ClipSpec) -> np.ndarray:
    """Decode the frames of the centred clip, uint8 `[T, H, W, 3]`; raises VideoError."""
    return read_frames(path, clip_indices(probe(path).frames, spec, None))


def load_frames(path: str | Path, spec: ClipSpec) -> np.ndarray:
    """The centred clip as a model sees it, uint8 `[T, S, S, 3]`; raises VideoError."""
    return short_side_crop(sample_frames(path, spec), spec)


def load_clip(path: str | Path, spec: ClipSpec) -> np.ndarray:
    """The centred clip normalised, float32 `[3, T, S, S]`; raises VideoError."""
    return normalise(load_frames(path, spec), spec)
