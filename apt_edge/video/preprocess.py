"""Frames to model input in numpy alone: what training evaluates with is what a device runs.

Shapes: T frames, H height, W width, C colour (3), S model input size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from apt_edge.clip import ClipSpec

Crop = tuple[float, float, float]
CENTRE: Crop = (1.0, 0.5, 0.5)


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
    return _apply(frames_THWC, _weights(old_height, height), _weights(old_width, width))


def short_side_crop(frames_THWC: np.ndarray, spec: ClipSpec, crop: Crop | None = None) -> np.ndarray:
    """Scale the shorter side and cut out the square that the model sees.

    Args:
        frames_THWC: uint8 [T, H, W, 3].
        spec: gives the size S.
        crop: (scale, dx, dy). The square covers `scale` of the shorter side (1 = all of it; smaller zooms in), and lies
            at the fractions `dx`, `dy` of the room that is left (0 = left or top, 1 = right or bottom).
            None is the centre of the whole: (1, 0.5, 0.5).

    Returns:
        uint8 [T, S, S, 3].
    """
    scale, dx, dy = crop or CENTRE
    _, height, width, _ = frames_THWC.shape
    short = max(spec.size, round(spec.size / scale))
    new_height = max(short, round(height * short / min(height, width)))
    new_width = max(short, round(width * short / min(height, width)))
    top, left = round(dy * (new_height - spec.size)), round(dx * (new_width - spec.size))
    rows = _weights(height, new_height)[top : top + spec.size]  # resize then crop, computing only what is kept
    columns = _weights(width, new_width)[left : left + spec.size]
    return _apply(frames_THWC, rows, columns)


def normalise(frames_TSSC: np.ndarray, spec: ClipSpec) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation of `spec`, for values scaled to [0, 1].

    Args:
        frames_TSSC: uint8 [T, S, S, 3], RGB.
        spec: gives mean and std.

    Returns:
        float32 [3, T, S, S], contiguous.
    """
    std = np.asarray(spec.std, dtype=np.float32)
    gain = np.float32(1 / 255) / std
    offset = -np.asarray(spec.mean, dtype=np.float32) / std
    clip_CTSS = np.ascontiguousarray(frames_TSSC.transpose(3, 0, 1, 2), dtype=np.float32)
    clip_CTSS *= gain[:, None, None, None]
    clip_CTSS += offset[:, None, None, None]
    return clip_CTSS


def _apply(frames_THWC: np.ndarray, rows_hH: np.ndarray, columns_wW: np.ndarray) -> np.ndarray:
    """Filter along height and width with dense weights: uint8 [T, h, w, 3]."""
    (top, bottom), (left, right) = _used(rows_hH), _used(columns_wW)
    part = frames_THWC[:, top:bottom, left:right]
    frames, height, width, channels = part.shape
    h, w = len(rows_hH), len(columns_wW)
    x = np.ascontiguousarray(part.transpose(0, 1, 3, 2), dtype=np.float32)  # width last: one large product each way
    x = x.reshape(-1, width) @ columns_wW[:, left:right].T
    x = rows_hH[:, top:bottom] @ x.reshape(frames, height, channels * w)
    x += 0.5  # the cast below cuts off: this rounds
    np.clip(x, 0, 255, out=x)
    return np.ascontiguousarray(x.astype(np.uint8).reshape(frames, h, channels, w).transpose(0, 1, 3, 2))


def _used(weights: np.ndarray) -> tuple[int, int]:
    columns = np.flatnonzero(weights.any(axis=0))
    return int(columns[0]), int(columns[-1]) + 1


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> np.ndarray:
    """float32 [new, old], rows sum to 1: a triangle one source step wide, or one target step when shrinking."""
    step = old / new
    radius = max(step, 1.0)
    centre = (np.arange(new) + 0.5) * step
    distance = np.abs(np.arange(old) + 0.5 - centre[:, None]) / radius
    weights = np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    weights.flags.writeable = False
    return weights.astype(np.float32)
