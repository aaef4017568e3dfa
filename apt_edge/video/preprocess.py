"""Frames to model input in numpy alone: what training evaluates with is what a device runs.

Shapes: T frames, H height, W width, C colour (3), S model input size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from apt_edge.clip import ClipSpec

BLOCK = 1 << 19  # weights that are computed at a time: 4 MB each of a few arrays


def resize(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale frames with an antialiased bilinear (triangle) filter.

    The filter is that of Pillow's `BILINEAR`; the result agrees with it within one level, as Pillow rounds
    between its two passes and this does not.

    Args:
        frames_THWC: uint8 [T, H, W, 3].
        height, width: the new size in pixels.

    Returns:
        uint8 [T, height, width, 3].
    """
    _, old_height, old_width, _ = frames_THWC.shape
    return _apply(frames_THWC, _weights(old_height, height, 0, height), _weights(old_width, width, 0, width))


def short_side_crop(frames_THWC: np.ndarray, spec: ClipSpec) -> np.ndarray:
    """Scale the shorter side to the model's input and cut out the square in the middle.

    Args:
        frames_THWC: uint8 [T, H, W, 3].
        spec: gives the size S.

    Returns:
        uint8 [T, S, S, 3].
    """
    _, height, width, _ = frames_THWC.shape
    new_height, new_width = short_side(height, width, spec)
    top, left = round((new_height - spec.size) / 2), round((new_width - spec.size) / 2)
    rows = _weights(height, new_height, top, top + spec.size)  # resize then crop, computing only what is kept
    columns = _weights(width, new_width, left, left + spec.size)
    return _apply(frames_THWC, rows, columns)


def short_side(height: int, width: int, spec: ClipSpec) -> tuple[int, int]:
    """Height and width of a frame whose shorter side is scaled to the size of `spec`."""
    return round(height * spec.size / min(height, width)), round(width * spec.size / min(height, width))


def normalise(frames_TSSC: np.ndarray, spec: ClipSpec) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation of `spec`, for values scaled to [0, 1].

    Args:
        frames_TSSC: uint8 [T, S, S, 3], RGB.
        spec: gives mean and std.

    Returns:
        float32 [3, T, S, S], contiguous.
    """
    gain, offset = gain_and_offset(spec)
    clip_CTSS = np.ascontiguousarray(frames_TSSC.transpose(3, 0, 1, 2), dtype=np.float32)
    clip_CTSS *= gain[:, None, None, None]
    clip_CTSS += offset[:, None, None, None]
    return clip_CTSS


def gain_and_offset(spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
    """What a level is multiplied with and what is added then: float32 [3] each, one of every colour."""
    std = np.asarray(spec.std, dtype=np.float32)
    return np.float32(1 / 255) / std, -np.asarray(spec.mean, dtype=np.float32) / std


class _Weights(NamedTuple):
    """What `new` pixels of a side are made of: float32 [new, end - begin] of the old pixels `begin` to `end`."""

    begin: int
    end: int
    values: np.ndarray


def _apply(frames_THWC: np.ndarray, along_height: _Weights, along_width: _Weights) -> np.ndarray:
    """Filter along height and width with dense weights: uint8 [T, h, w, 3]."""
    rows, columns = along_height.values, along_width.values.T
    used_THWC = frames_THWC[:, along_height.begin : along_height.end, along_width.begin : along_width.end]
    result = np.empty((len(frames_THWC), len(rows), columns.shape[1], frames_THWC.shape[3]), np.uint8)
    # Frame by frame: a stream has one at a time, and a product of another shape may sum in another order.
    for frame_HWC, out_hwC in zip(used_THWC, result, strict=True):
        height, width, channels = frame_HWC.shape
        x = np.ascontiguousarray(frame_HWC.transpose(0, 2, 1), dtype=np.float32)  # width last: one product each way
        x = rows @ (x.reshape(-1, width) @ columns).reshape(height, -1)
        x += 0.5  # the cast below cuts off: this rounds
        np.clip(x, 0, 255, out=x)
        out_hwC[:] = x.astype(np.uint8).reshape(len(rows), channels, -1).transpose(0, 2, 1)
    return result


@lru_cache(maxsize=8)  # a stream needs two, and two more when its size changes
def _weights(old: int, new: int, first: int, last: int) -> _Weights:
    """Of the pixels `first` to `last` of `new`: a triangle one source step wide, or one target step when shrinking.

    Rows sum to 1. The arrays are shared and cannot be written to.
    """
    step = old / new
    radius = max(step, 1.0)
    centre = (np.arange(first, last) + 0.5) * step
    begin, end = max(0, int(centre[0] - radius) - 1), min(old, int(centre[-1] + radius) + 2)
    values = np.empty((len(centre), end - begin), np.float32)
    rows = max(1, BLOCK // old)
    for start in range(0, len(centre), rows):  # sums are over whole rows, however little of them is kept
        distance = np.abs(np.arange(old) + 0.5 - centre[start : start + rows, None]) / radius
        weights = np.maximum(0.0, 1.0 - distance)
        weights /= weights.sum(axis=1, keepdims=True)
        values[start : start + rows] = weights[:, begin:end]
    used = np.flatnonzero(values.any(axis=0))
    values = values[:, used[0] : used[-1] + 1]
    values.flags.writeable = False
    return _Weights(begin + int(used[0]), begin + int(used[-1]) + 1, values)
