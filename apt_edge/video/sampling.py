"""Which frames of a video make the clip."""

from __future__ import annotations

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.errors import VideoError


def clip_indices(frames_in_video: int, spec: ClipSpec, rng: np.random.Generator | None) -> np.ndarray:
    """Choose the frames of one clip.

    `dense`: every `stride`-th frame, `(frames - 1) * stride + 1` frames from first to last, at a random start (`rng`)
    or in the middle of the video (None). A shorter video keeps its order: the stride shrinks to the largest that fits,
    down to 1, and a video with fewer frames than the clip repeats its last one.

    `segments`: the video is cut into `frames` equal parts, and each gives a random frame (`rng`) or its middle one
    (None). In a video with fewer frames than parts, neighbouring parts give the same frame.

    Args:
        frames_in_video: as `probe(path).frames` counts them.
        spec: the clip.
        rng: the source of randomness, or None for the deterministic choice used in evaluation.

    Returns:
        int64 [spec.frames], never decreasing, each in [0, frames_in_video).

    Raises:
        VideoError: the video has no frames.
    """
    if frames_in_video < 1:
        raise VideoError("a clip was asked of a video without frames", found=f"{frames_in_video} frames")
    steps = np.arange(spec.frames, dtype=np.int64)
    if spec.sampling == "segments":
        if rng is None:
            return (2 * steps + 1) * frames_in_video // (2 * spec.frames)
        within = (steps + rng.random(spec.frames)) * (frames_in_video / spec.frames)
        return np.minimum(within.astype(np.int64), frames_in_video - 1)
    stride = min(spec.stride, max(1, (frames_in_video - 1) // max(1, spec.frames - 1)))
    room = max(0, frames_in_video - 1 - (spec.frames - 1) * stride)
    start = room // 2 if rng is None else int(rng.integers(room + 1))
    return np.minimum(start + steps * stride, frames_in_video - 1)
