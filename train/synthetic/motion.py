"""Motion soup: random unlabelled motion with dense kinematic targets, the pre-training task of the embedded backbone.

A clip shows objects on random smooth paths (speed, curvature, growth, spin and fading are drawn independently), still
distractors, a moving camera, flicker and noise. There is no class, no label and no script: what a token has to
predict is the kinematics of whatever its cell shows, relative to the background.

Shapes: T frames, K tracks, `[TIME, GRID, GRID, C]` targets with C = len(CHANNELS).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from train.synthetic.scene import Scene, Track, background_texture, render_with_visibility, sprite_texture

FRAMES, SIZE, TUBELET, PATCH = 8, 48, 2, 8
TIME, GRID = FRAMES // TUBELET, SIZE // PATCH
SPRITES, BACKGROUNDS = 4000, 800  # pool sizes: they fit the texture caches

# Channel -> the standard deviation it is divided by (measured over 2000 clips, rounded). Rates are per sampled frame,
# lengths in frame sides; every channel but the last is multiplied by the coverage of the object it belongs to.
CHANNELS = {
    "coverage": 0.164,  # share of the cell that moving objects cover
    "u": 0.007,  # velocity to the right
    "v": 0.007,  # velocity downwards
    "growth": 0.0183,  # d log(size) / dt
    "spin": 0.056,  # d angle / dt, clockwise
    "fade": 0.0061,  # d opacity / dt
    "turn": 0.053,  # turning rate of the path, clockwise
    "approach": 0.0081,  # minus d distance / dt to the nearest other moving object
    "emergence": 0.0104,  # d (visible share of the object) / dt: negative while it is being covered
    "coverage_rate": 0.058,  # d coverage / dt of the cell
}
SLOW = 0.01  # frame sides per frame: below it the direction of a path, and so its turning rate, means nothing


@dataclass(frozen=True)
class Soup:
    """A scene and which of its tracks move (the others are part of the background)."""

    scene: Scene
    moving: tuple[bool, ...]


def make_clip(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip `index` of the endless stream `seed`: frames uint8 `[8, 48, 48, 3]`, targets float32 `[4, 6, 6, C]`."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    soup = random_soup(rng)
    return draw(soup, rng)


def draw(soup: Soup, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene and its targets; shapes as in `make_clip`."""
    frames, visible = render_with_visibility(soup.scene, SIZE, rng)
    return _soften(frames, rng.choice([0, 1]) * rng.uniform(0, 0.7)), targets(soup, visible)


def _soften(frames: np.ndarray, amount: float) -> np.ndarray:
    """Mix frames `[T, H, W, 3]` with their 3 x 3 average, as reducing and compressing a video does."""
    if amount == 0:
        return frames
    sharp = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    soft = F.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)
    return torch.lerp(sharp, soft, amount).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def targets(soup: Soup, visible: np.ndarray) -> np.ndarray:
    """Standardised targets `[4, 6, 6, C]` of a scene; `visible` `[8, K, 48, 48]` as the renderer gives it."""
    moving = [index for index, moves in enumerate(soup.moving) if moves]
    if not moving:
        return np.zeros((TIME, GRID, GRID, len(CHANNELS)), np.float32)
    tracks = [soup.scene.tracks[index] for index in moving]
    cover = visible[:, moving].reshape(FRAMES, len(moving), GRID, PATCH, GRID, PATCH).mean(axis=(3, 5))
    motion = _kinematics(tracks, soup.scene, cover.mean(axis=(2, 3)))
    weighted = cover.reshape(FRAMES, len(moving), -1).transpose(0, 2, 1) @ motion
    coverage_rate = _rate(cover.sum(axis=1)).reshape(FRAMES, -1, 1)
    values = np.concatenate([weighted, coverage_rate], axis=-1)
    values = values.reshape(TIME, TUBELET, GRID, GRID, len(CHANNELS)).mean(axis=1)
    return (values / np.array(list(CHANNELS.values()))).astype(np.float32)


def _kinematics(tracks: list[Track], scene: Scene, area: np.ndarray) -> np.ndarray:
    """Rates of each moving track, `[T, K, C - 1]` in the order of CHANNELS; `area` `[T, K]` is its visible area."""
    zoom = scene.zoom[:, None]
    x, y = np.stack([t.x for t in tracks], axis=1), np.stack([t.y for t in tracks], axis=1)
    size, opacity = np.stack([t.size for t in tracks], axis=1), np.stack([t.opacity for t in tracks], axis=1)
    u, v = _rate(x), _rate(y)
    turn = (u * _rate(v) - v * _rate(u)) / (u**2 + v**2 + SLOW**2)
    body = np.array([t.texture[..., 3].mean() for t in tracks]) * (size * zoom) ** 2
    share = np.clip(area / (body * np.maximum(opacity, 0.05) + 1e-3), 0, 1)
    rates = [
        np.ones_like(u),
        u * zoom,
        v * zoom,
        _rate(np.log(np.maximum(size, 1e-3))),
        _rate(np.stack([t.angle for t in tracks], axis=1)),
        _rate(opacity),
        turn,
        _approach(x, y) * zoom,
        _rate(share),
    ]
    return np.stack(rates, axis=-1)


def _rate(value: np.ndarray) -> np.ndarray:
    """Change per frame along the first axis, central differences."""
    return np.gradient(value, axis=0)


def _approach(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How fast each track comes nearer to its nearest companion, `[T, K]`; zero for a single one."""
    count = x.shape[1]
    if count == 1:
        return np.zeros_like(x)
    distance = np.hypot(x[:, :, None] - x[:, None, :], y[:, :, None] - y[:, None, :])
    closing = -_rate(distance)
    distance[:, np.arange(count), np.arange(count)] = np.inf
    nearest = distance.argmin(axis=2)[..., None]
    return np.take_along_axis(closing, nearest, axis=2)[..., 0]


@dataclass(frozen=True)
class Symmetry:
    """A change of clips whose targets are known exactly: mirrored (x or y), transposed, played backwards."""

    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False
    reverse: bool = False

    def apply(self, frames: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transform frames `[..., T, H, W, 3]` and targets `[..., TIME, GRID, GRID, C]`; the inputs are left alone."""
        names = list(CHANNELS)
        sign = np.ones(len(names), np.float32)
        if self.flip_x:
            frames, target = np.flip(frames, -2), np.flip(target, -2)
            sign *= _signs("u", "spin", "turn")
        if self.flip_y:
            frames, target = np.flip(frames, -3), np.flip(target, -3)
            sign *= _signs("v", "spin", "turn")
        target = target * sign
        if self.transpose:
            order = list(range(len(names)))
            order[names.index("u")], order[names.index("v")] = names.index("v"), names.index("u")
            frames, target = frames.swapaxes(-3, -2), target.swapaxes(-3, -2)[..., order] * _signs("spin", "turn")
        if self.reverse:
            frames, target = np.flip(frames, -4), np.flip(target, -4) * -_signs("coverage")
        return np.ascontiguousarray(frames), np.ascontiguousarray(target)


def _signs(*negative: str) -> np.ndarray:
    return np.array([-1 if name in negative else 1 for name in CHANNELS], np.float32)


# --- random scenes ---------------------------------------------------------------------------------------------------


def random_soup(rng: np.random.Generator) -> Soup:
    """Draw a scene: 1-4 objects on independent random paths, 0-2 still ones, camera, flicker and noise."""
    count, still = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.35, 0.15, 0.1])), int(rng.choice(3, p=[0.4, 0.35, 0.25]))
    tracks: list[Track] = []
    for _ in range(count):
        near = None
        if tracks and rng.random() < 0.6:  # so that paths cross and objects cover each other
            other = tracks[rng.integers(len(tracks))]
            frame = rng.integers(FRAMES)
            near = (float(other.x[frame]), float(other.y[frame]))
        tracks.append(_moving_track(rng, near))
    ones = np.ones(FRAMES)
    for _ in range(still):
        x, y = rng.uniform(0.1, 0.9, 2)
        if rng.random() < 0.5:
            other = tracks[rng.integers(count)]
            frame = rng.integers(FRAMES)
            x, y = other.x[frame] + rng.normal(0, 0.05), other.y[frame] + rng.normal(0, 0.05)
        tracks.append(Track(_sprite(rng), x * ones, y * ones, _size(rng) * ones, rng.uniform(0, 6) * ones, ones))
    order = rng.permutation(len(tracks))
    scene = Scene(
        background=background_texture(int(rng.integers(BACKGROUNDS)), "pretrain"),
        camera_x=0.5 + _camera(rng),
        camera_y=0.5 + _camera(rng),
        zoom=np.exp(rng.choice([0, 1]) * rng.uniform(-0.2, 0.2) * np.linspace(-0.5, 0.5, FRAMES)),
        tracks=tuple(tracks[index] for index in order),
        brightness=rng.uniform(0.8, 1.15) + rng.uniform(0, 0.06) * rng.standard_normal(FRAMES),
        noise=float(rng.uniform(0, 6)),
    )
    return Soup(scene, tuple(bool(index < count) for index in order))


def _moving_track(rng: np.random.Generator, near: tuple[float, float] | None) -> Track:
    """A track in which at least one of path, growth, spin and fading is active."""
    active = rng.random(4) < (0.6, 0.35, 0.4, 0.3)
    active[rng.integers(4)] |= not active.any()
    x, y = _path(rng, near) if active[0] else _place(rng, near)
    growth = _progress(rng) * rng.choice([-1, 1]) * rng.uniform(0.25, 1.6) if active[1] else np.zeros(FRAMES)
    spin = _progress(rng) * rng.choice([-1, 1]) * rng.uniform(0.3, 5.5) if active[2] else np.zeros(FRAMES)
    opacity = np.ones(FRAMES)
    if active[3]:
        low, high = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
        rising = rng.random() < 0.5
        opacity = low + (high - low) * (_progress(rng) if rising else 1 - _progress(rng))
    size = np.clip(_size(rng) * np.exp(growth - growth.mean()), 0.05, 0.9)
    return Track(_sprite(rng), x, y, size, rng.uniform(0, 2 * np.pi) + spin, opacity)


def _path(rng: np.random.Generator, near: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """A path of random length, heading and curvature, half of them straight; some with a slow wobble."""
    fine = np.linspace(0, 1, 33)
    bend = 0.0 if rng.random() < 0.5 else rng.choice([-1, 1]) * rng.uniform(0.5, 7)
    heading = rng.uniform(0, 2 * np.pi) + bend * fine
    length = rng.uniform(0.1, 0.8) * (1 + 0.12 * abs(bend))
    steps = length / 32 * np.exp(1j * 0.5 * (heading[1:] + heading[:-1]))
    curve = np.concatenate([[0], np.cumsum(steps)])
    middle = curve[rng.integers(4, 29)] if near else curve.mean()
    progress = _progress(rng)
    point = np.interp(progress, fine, curve.real) + 1j * np.interp(progress, fine, curve.imag) - middle
    if rng.random() < 0.2:
        wobble = rng.uniform(0, 0.06) * np.sin(rng.uniform(1, 6) * np.linspace(0, 1, FRAMES) + rng.uniform(0, 6))
        point = point + wobble * np.exp(1j * rng.uniform(0, 6))
    x, y = _place(rng, near)
    return x + point.real, y + point.imag


def _place(rng: np.random.Generator, near: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    x, y = near if near else rng.uniform(0.2, 0.8, 2)
    spread = 0.08 if near else 0.0
    ones = np.ones(FRAMES)
    return ones * (x + rng.normal(0, spread)), ones * (y + rng.normal(0, spread))


def _progress(rng: np.random.Generator) -> np.ndarray:
    """From about 0 to about 1 over the frames: random start, end and easing; slow ones are cut by the clip's end."""
    start, end = rng.uniform(-0.15, 0.35), rng.uniform(0.65, 1.15)
    if rng.random() < 0.15:  # a short event
        start = rng.uniform(0, 0.6)
        end = start + rng.uniform(0.25, 0.4)
    linear = np.clip((np.linspace(0, 1, FRAMES) - start) / (end - start), 0, 1)
    ease = rng.random()
    return (1 - ease) * linear + ease * (3 * linear**2 - 2 * linear**3)


def _camera(rng: np.random.Generator) -> np.ndarray:
    pan = rng.choice([0, 1]) * rng.uniform(-0.2, 0.2) * np.linspace(-0.5, 0.5, FRAMES)
    return pan + rng.choice([0, 1]) * rng.uniform(0, 0.012) * rng.standard_normal(FRAMES)


def _sprite(rng: np.random.Generator) -> np.ndarray:
    return sprite_texture(int(rng.integers(SPRITES)), "pretrain")


def _size(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.16, 0.5))
