"""Procedural textures: fills, drawn shapes, sprites and backgrounds, each a pure function of (seed, split).

Nothing is shipped and nothing is photographed: a texture is its seed. The splits draw from separate seed streams, so
that no sprite and no background of the validation clips occurs in training or in pre-training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from apt_edge.errors import ConfigError

SPLITS = {"pretrain": 1, "train": 2, "val": 3}
SPRITE_SIDE = 32
BACKGROUND_SIDE = 128

Rng = np.random.Generator


@lru_cache(maxsize=4096)
def sprite_texture(seed: int, split: str) -> np.ndarray:
    """A filled shape, `[32, 32, 4]` float32 RGBA in 0..1 (read-only); raises ConfigError for an unknown split."""
    rng = _stream(0, seed, split)
    axis = (np.arange(SPRITE_SIDE) + 0.5) / SPRITE_SIDE * 2 - 1
    x, y = np.meshgrid(axis, axis)
    turn = rng.uniform(0, 2 * np.pi)
    shape = SHAPES[rng.integers(len(SHAPES))]
    distance = shape(rng, x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn))
    alpha = np.clip(0.5 - distance * SPRITE_SIDE / 2, 0, 1)
    return _frozen(np.dstack([_fill(rng, SPRITE_SIDE), alpha]))


@lru_cache(maxsize=1024)
def background_texture(seed: int, split: str) -> np.ndarray:
    """A background, `[128, 128, 3]` float32 in 0..1 (read-only); raises ConfigError for an unknown split."""
    return _frozen(_fill(_stream(1, seed, split), BACKGROUND_SIDE))


def _stream(kind: int, seed: int, split: str) -> Rng:
    if split not in SPLITS:
        raise ConfigError(f"there is no texture split {split!r}", fix=f"choose one of {', '.join(SPLITS)}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS[split], kind, seed])))


def _frozen(image: np.ndarray) -> np.ndarray:
    image = np.clip(image, 0, 1).astype(np.float32)
    image.flags.writeable = False  # it is cached: one caller's change would be everybody's
    return image


# --- fills: rng, side -> [side, side] in 0..1, or [side, side, 3] colours --------------------------------------------


def _fill(rng: Rng, side: int) -> np.ndarray:
    """A coloured fill `[side, side, 3]`: a scalar pattern between two colours, plus a little 1/f noise."""
    pattern = FILLS[rng.integers(len(FILLS))](rng, side)
    first, second = _colour(rng), _colour(rng)
    image = first + (second - first) * pattern[..., None] if pattern.ndim == 2 else pattern
    return image + rng.uniform(0, 0.2) * (_noise(rng, side)[..., None] - 0.5)


def _colour(rng: Rng) -> np.ndarray:
    """A colour with random brightness and random saturation."""
    grey = rng.uniform(0.05, 0.95)
    return np.clip(grey + rng.uniform(0, 0.5) * rng.uniform(-1, 1, 3), 0, 1)


def _noise(rng: Rng, side: int) -> np.ndarray:
    """1/f^a noise stretched to 0..1."""
    fx, fy = np.fft.rfftfreq(side), np.fft.fftfreq(side)
    radius = np.hypot(fy[:, None], fx[None, :])
    radius[0, 0] = 1
    spectrum = (rng.standard_normal(radius.shape) + 1j * rng.standard_normal(radius.shape)) / radius ** rng.uniform(
        0.8, 2.0
    )
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (side, side))
    return np.clip(0.5 + 0.22 * field / (field.std() + 1e-9), 0, 1)


def _coloured_noise(rng: Rng, side: int) -> np.ndarray:
    mix = rng.normal(0, 1, (3, 3)) * 0.35
    fields = np.dstack([_noise(rng, side) - 0.5 for _ in range(3)])
    return _colour(rng) + fields @ mix.T


def _grid(rng: Rng, side: int) -> tuple[np.ndarray, np.ndarray]:
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:side, 0:side].astype(np.float64)
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def _stripes(rng: Rng, side: int) -> np.ndarray:
    along, _ = _grid(rng, side)
    wave = np.sin(2 * np.pi * along / rng.uniform(6, 28) + rng.uniform(0, 6))
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 5), -1, 1)


def _checks(rng: Rng, side: int) -> np.ndarray:
    along, across = _grid(rng, side)
    period = rng.uniform(8, 28)
    wave = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(2, 8), -1, 1)


def _voronoi(rng: Rng, side: int) -> np.ndarray:
    count = int(rng.integers(4, max(6, side // 3)))
    points = rng.uniform(0, side, (count, 2))
    y, x = np.mgrid[0:side, 0:side]
    nearest = ((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2).argmin(-1)
    return np.stack([_colour(rng) for _ in range(count)])[nearest]


def _blobs(rng: Rng, side: int) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side]
    image = np.zeros((side, side))
    for _ in range(int(rng.integers(3, 9))):
        cx, cy = rng.uniform(0, side, 2)
        image += rng.uniform(0.3, 1) * np.exp(
            -((x - cx) ** 2 + (y - cy) ** 2) / (2 * (rng.uniform(0.05, 0.2) * side) ** 2)
        )
    return np.clip(image, 0, 1)


def _gradient(rng: Rng, side: int) -> np.ndarray:
    along, _ = _grid(rng, side)
    return (along - along.min()) / (along.max() - along.min())


FILLS: list[Callable[[Rng, int], np.ndarray]] = [
    _noise, _coloured_noise, _coloured_noise, _stripes, _checks, _voronoi, _blobs, _gradient,
]  # fmt: skip


# --- shapes: rng, x, y in -1..1 -> signed distance (roughly), negative inside ----------------------------------------


def _polygon(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    corners = int(rng.integers(3, 8))
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) / corners
    reach = rng.uniform(0.45, 0.7, corners)
    return np.max([x * np.cos(a) + y * np.sin(a) - r for a, r in zip(angles, reach, strict=True)], axis=0)


def _star(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    points, depth = int(rng.integers(3, 8)), rng.uniform(0.15, 0.4)
    edge = 0.9 - depth + depth * np.cos(points * np.arctan2(y, x))
    return np.hypot(x, y) - edge


def _blob(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle, edge = np.arctan2(y, x), np.full(x.shape, 0.65)
    for order in range(1, 5):
        edge += rng.uniform(-0.16, 0.16) / order**0.5 * np.cos(order * angle + rng.uniform(0, 6))
    return np.hypot(x, y) - edge


def _ellipse(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ratio = rng.uniform(0.35, 1)
    return (np.hypot(x, y / ratio) - 0.9) * ratio


def _ring(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    width = rng.uniform(0.12, 0.3)
    return np.abs(np.hypot(x, y * rng.uniform(1, 1.5)) - (0.9 - width)) - width


def _cross(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    width, arm, shift = rng.uniform(0.15, 0.35), rng.uniform(0.5, 0.9), rng.uniform(-0.4, 0.4)
    return np.minimum(
        np.maximum(np.abs(x) - width, np.abs(y) - 0.9), np.maximum(np.abs(x) - arm, np.abs(y - shift) - width)
    )


def _crescent(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.9, rng.uniform(0.5, 0.75) - np.hypot(x - rng.uniform(0.3, 0.6), y))


def _strokes(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A letter-like polyline of thick strokes."""
    points = rng.uniform(-0.7, 0.7, (int(rng.integers(3, 6)), 2))
    distance = np.full(x.shape, 9.0)
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = bx - ax, by - ay
        place = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - place * dx, y - ay - place * dy))
    return distance - rng.uniform(0.14, 0.24)


SHAPES: list[Callable[[Rng, np.ndarray, np.ndarray], np.ndarray]] = [
    _polygon, _polygon, _star, _blob, _ellipse, _ring, _cross, _crescent, _strokes,
]  # fmt: skip
