"""Augmentation of training clips: one draw a clip, every draw fixed by the generator that comes with it.

Order as in the published video recipes: RandAugment on the decoded frames, random resized crop, flip, normalisation
(which is affine, so that its place among the last three makes no difference but rounding).

Shapes: C colour (3), T frames, H height, W width, S model input size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.video.decode import read_frames
from apt_edge.video.lists import Item
from apt_edge.video.load import span
from apt_edge.video.preprocess import normalise, resize
from apt_edge.video.sampling import clip_indices
from train.engine.randaug import parse_randaug, rand_augment
from train.recipe import Augment


def augmented_views(
    video: Item | Path,
    spec: ClipSpec,
    augment: Augment,
    rngs: Sequence[np.random.Generator],
    flips: Sequence[bool],
    decoder: str = "pyav",
) -> list[np.ndarray]:
    """Random frames and changes, once for each `rng` and all from one decoding of the video.

    `flips` says which of them are mirrored: a flip may change the class, so the caller draws it. Returns float32
    `[C, T, S, S]` arrays; raises VideoError.
    """
    path, first, count = span(video, decoder)
    frames = read_frames(path, first + np.concatenate([clip_indices(count, spec, rng) for rng in rngs]), decoder)
    parts = zip(np.split(frames, len(rngs)), rngs, flips, strict=True)
    return [augment_clip(part, spec, augment, rng, flip) for part, rng, flip in parts]


def augment_clip(
    frames_THWC: np.ndarray, spec: ClipSpec, augment: Augment, rng: np.random.Generator, flip: bool = False
) -> np.ndarray:
    """All frames changed alike: uint8 `[T, H, W, 3]` to float32 `[C, T, S, S]`."""
    if augment.randaug:
        frames_THWC = rand_augment(frames_THWC, parse_randaug(augment.randaug), rng)
    top, left, height, width = crop_box(frames_THWC.shape[1:3], augment.scale, augment.ratio, rng)
    frames = resize(frames_THWC[:, top : top + height, left : left + width], spec.size, spec.size)
    if augment.brightness:
        gain = np.float32(1 + augment.brightness * rng.uniform(-1, 1))
        frames = np.clip(frames * gain + np.float32(0.5), 0, 255).astype(np.uint8)
    return normalise(frames[:, :, ::-1] if flip else frames, spec)


def crop_box(
    size: Sequence[int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) in a frame of `size` (H, W), as a random resized crop draws it.

    Area uniform in `scale` (a part of the frame's), width / height log-uniform in `ratio`. When ten draws do not fit
    into the frame, the largest centred box that keeps to `ratio`, whatever its area.
    """
    frame_height, frame_width = size
    for _ in range(10):
        area = frame_height * frame_width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < height <= frame_height and 0 < width <= frame_width:
            top = int(rng.integers(frame_height - height + 1))
            return top, int(rng.integers(frame_width - width + 1)), height, width
    height = min(frame_height, round(frame_width / ratio[0]))
    width = min(frame_width, round(frame_height * ratio[1]))
    return (frame_height - height) // 2, (frame_width - width) // 2, height, width
