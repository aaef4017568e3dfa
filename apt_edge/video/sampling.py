"""Which frames of a video make a clip: the rules of the published video recipes, to the frame.

Shapes: T frames of a clip, K clips of a test.
"""

from __future__ import annotations

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, VideoError


def clip_indices(frames_in_video: int, spec: ClipSpec, rng: np.random.Generator | None) -> np.ndarray:
    """Choose the frames of one clip, for training (`rng`) or for validation (None), which draws nothing.

    `dense`: T frames spread evenly over a span of `T * stride` frames, both of its ends included: they are a little
    more than `stride` apart. The span lies at random (`rng`) or in the middle (None). A video that is not longer than
    the span gives one frame for each whole `stride` it has, spread over all of it, and then its last frame repeatedly.

    `segments`: of `T` equal parts each gives a random frame (`rng`; parts are whole frames long, so that up to T - 1
    frames at the end are never drawn) or its middle one (None). A video with fewer frames than parts gives its first
    frame alone (`rng`), or the frames nearest to the middles (None).

    Args:
        frames_in_video: as `probe(path).frames` counts them.
        spec: the clip.
        rng: the source of randomness, or None for the deterministic choice used in evaluation.

    Returns:
        int64 [T], never decreasing, each in [0, frames_in_video).

    Raises:
        VideoError: the video has no frames.
    """
    _refuse_empty(frames_in_video)
    if spec.sampling == "segments":
        return _segments(frames_in_video, spec.frames, rng)
    return _dense(frames_in_video, spec.frames, spec.stride, rng)


def test_indices(frames_in_video: int, spec: ClipSpec, clips: int) -> np.ndarray:
    """Choose the frames of the clips whose scores are averaged in a test; one clip is that of validation.

    `dense`: every `stride`-th frame of the whole video, its last one repeated until there are T; the clips are T of
    these in a row, and begin at equal distances from the first possible start to the last.

    `segments`: the starts of T equal parts, and their middles. More than two clips are not defined.

    Args:
        frames_in_video: as `probe(path).frames` counts them.
        spec: the clip.
        clips: K.

    Returns:
        int64 [K, T], each in [0, frames_in_video).

    Raises:
        ConfigError: more than two clips of segments.
        VideoError: the video has no frames.
    """
    if spec.sampling == "segments" and clips > 2:
        raise ConfigError(
            f"{clips} clips of a video were asked for, and clips of segments come in two kinds: starts and middles",
            fix="use 1 or 2 clips, as in 2x3; published code deals the same 2T frames out to more and cannot run it",
        )
    _refuse_empty(frames_in_video)
    if clips == 1:
        return clip_indices(frames_in_video, spec, None)[None]
    if spec.sampling == "segments":
        part = frames_in_video / spec.frames
        starts = part * np.arange(spec.frames)
        both = np.sort(np.concatenate([starts, part / 2 + starts]).astype(np.int64))
        return np.stack([both[0::2], both[1::2]])
    seen = np.arange(0, frames_in_video, spec.stride, dtype=np.int64)
    seen = np.pad(seen, (0, max(0, spec.frames - len(seen))), mode="edge")
    distance = (len(seen) - spec.frames) / (clips - 1)
    starts = (np.arange(clips) * distance).astype(np.int64)
    return seen[starts[:, None] + np.arange(spec.frames)]


def _dense(count: int, frames: int, stride: int, rng: np.random.Generator | None) -> np.ndarray:
    span = frames * stride
    if count <= span:
        spread = np.linspace(0, count, num=count // stride)
        indices = np.pad(spread, (0, frames - len(spread)), constant_values=count)
        return np.minimum(indices, count - 1).astype(np.int64)
    start = (count - 1 - span) // 2 if rng is None else int(rng.integers(span, count)) - span
    return np.minimum(np.linspace(start, start + span, num=frames), start + span - 1).astype(np.int64)


def _segments(count: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
    if rng is None:
        return (count / frames / 2 + count / frames * np.arange(frames)).astype(np.int64)
    if count < frames:
        return np.zeros(frames, dtype=np.int64)
    length = count // frames
    return np.arange(frames, dtype=np.int64) * length + rng.integers(length, size=frames)


def _refuse_empty(frames_in_video: int) -> None:
    if frames_in_video < 1:
        raise VideoError("a clip was asked of a video without frames", found=f"{frames_in_video} frames")
