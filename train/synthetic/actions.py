"""Sixteen actions in eight pairs: the second of a pair is the first played backwards, so only order tells.

A `Script` is everything a clip is made of, as rounded numbers; `scene` turns it into what the renderer draws. No number
but the label depends on the label, and camera, flicker and distractors are drawn the same for both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from train.synthetic.scene import Scene, Track, background_texture, sprite_texture

FPS, SIDE = 12, 64
TURN = 2 * np.pi
TEXTURES = 1_000_000  # texture seeds to choose from
CONTRAST = 0.25  # least difference between the mean colours of an object and the background, in one channel
Range = tuple[float, float]
Values = dict[str, float]


class Pose(NamedTuple):
    """One object over the clip, each a number or `[T]`; units as in `train.synthetic.scene.Track`."""

    x: Any
    y: Any
    size: Any
    angle: Any = 0.0
    opacity: Any = 1.0


# --- the first action of each pair: values, progress [T] from 0 to 1 -> objects, later ones drawn over earlier ones ---


def _slide(v: Values, p: np.ndarray) -> list[Pose]:
    return [Pose(v["x"] + v["travel"] * (p - 0.5), v["y"], v["size"], v["angle"])]


def _rise(v: Values, p: np.ndarray) -> list[Pose]:
    return [Pose(v["x"], v["y"] - v["travel"] * (p - 0.5), v["size"], v["angle"])]


def _approach(v: Values, p: np.ndarray) -> list[Pose]:
    return [Pose(v["x"], v["y"], v["size"] * v["growth"] ** p, v["angle"])]


def _rotate(v: Values, p: np.ndarray) -> list[Pose]:
    return [Pose(v["x"], v["y"], v["size"], v["angle"] + v["turn"] * p)]


def _appear(v: Values, p: np.ndarray) -> list[Pose]:
    return [Pose(v["x"], v["y"], v["size"], v["angle"], p)]


def _hide(v: Values, p: np.ndarray) -> list[Pose]:
    away = v["travel"] * (1 - p)
    x, y = v["x"] + away * np.cos(v["heading"]), v["y"] + away * np.sin(v["heading"])
    return [Pose(x, y, v["size"], v["angle"]), Pose(v["x"], v["y"], v["panel"], v["panel_angle"])]


def _join(v: Values, p: np.ndarray) -> list[Pose]:
    touching = v["touch"] * (v["size"] + v["other_size"]) / 2
    half = (v["apart"] + (touching - v["apart"]) * p) / 2
    dx, dy = half * np.cos(v["heading"]), half * np.sin(v["heading"])
    return [
        Pose(v["x"] + dx, v["y"] + dy, v["size"], v["angle"]),
        Pose(v["x"] - dx, v["y"] - dy, v["other_size"], v["other_angle"]),
    ]


def _orbit(v: Values, p: np.ndarray) -> list[Pose]:
    phase = v["heading"] + v["sweep"] * p  # y points down: growing angles turn clockwise
    x, y = v["x"] + v["radius"] * np.cos(phase), v["y"] + v["radius"] * np.sin(phase)
    return [Pose(v["x"], v["y"], v["hub"], v["hub_angle"]), Pose(x, y, v["size"], v["angle"])]


@dataclass(frozen=True)
class Pair:
    """Two actions that are each other's reversal: their names, how the first is played, and the range of each value."""

    forward: str
    backward: str
    play: Callable[[Values, np.ndarray], list[Pose]]
    ranges: dict[str, Range]


ANY, MIDDLE = (0.0, TURN), (0.38, 0.62)
PAIRS = [
    Pair("slide right", "slide left", _slide,
         {"x": MIDDLE, "y": (0.2, 0.8), "size": (0.18, 0.36), "angle": ANY, "travel": (0.42, 0.68)}),
    Pair("rise", "fall", _rise,
         {"x": (0.2, 0.8), "y": MIDDLE, "size": (0.18, 0.36), "angle": ANY, "travel": (0.42, 0.68)}),
    Pair("approach", "recede", _approach,
         {"x": MIDDLE, "y": MIDDLE, "size": (0.13, 0.2), "angle": ANY, "growth": (2.2, 3.4)}),
    Pair("rotate clockwise", "rotate counterclockwise", _rotate,
         {"x": MIDDLE, "y": MIDDLE, "size": (0.4, 0.62), "angle": ANY, "turn": (1.8, 3.6)}),
    Pair("appear", "vanish", _appear,
         {"x": (0.25, 0.75), "y": (0.25, 0.75), "size": (0.24, 0.46), "angle": ANY}),
    Pair("hide", "emerge", _hide,
         {"x": (0.42, 0.58), "y": (0.42, 0.58), "size": (0.18, 0.26), "angle": ANY, "heading": ANY,
          "travel": (0.34, 0.42), "panel": (0.4, 0.5), "panel_angle": ANY}),
    Pair("join", "split", _join,
         {"x": (0.45, 0.55), "y": (0.45, 0.55), "size": (0.2, 0.32), "angle": ANY, "heading": ANY,
          "apart": (0.6, 0.8), "touch": (0.5, 0.8), "other_size": (0.2, 0.32), "other_angle": ANY}),
    Pair("orbit clockwise", "orbit counterclockwise", _orbit,
         {"x": (0.45, 0.55), "y": (0.45, 0.55), "size": (0.18, 0.26), "angle": ANY, "heading": ANY,
          "radius": (0.26, 0.34), "sweep": (3.0, 5.0), "hub": (0.18, 0.26), "hub_angle": ANY}),
]  # fmt: skip
LABELS = [name for pair in PAIRS for name in (pair.forward, pair.backward)]
NUISANCES: dict[str, Range] = {
    "start": (0.0, 0.18),  # the action lies between these shares of the clip
    "end": (0.82, 1.0),
    "ease": (0.0, 1.0),  # 0 constant speed, 1 slow at both ends
    "pan_x": (-0.1, 0.1),  # of the camera over the clip, frame sides
    "pan_y": (-0.1, 0.1),
    "zoom": (-0.08, 0.08),  # log of the change in magnification over the clip
    "jitter": (0.0, 0.006),  # of the camera, standard deviation in frame sides
    "brightness": (0.85, 1.1),
    "flicker": (0.0, 0.04),
    "noise": (0.0, 6.0),  # pixel noise, standard deviation in levels
}
DISTRACTOR: dict[str, Range] = {"x": (0.05, 0.95), "y": (0.05, 0.95), "size": (0.12, 0.3), "angle": ANY}


@dataclass(frozen=True)
class Script:
    """One clip in numbers, rounded so that they read the same on every machine.

    Attributes:
        label: index into LABELS.
        split: whose textures are used.
        seed: of jitter, flicker and pixel noise.
        frames: length at FPS frames a second.
        crf: H.264 quality.
        background, sprites: texture seeds, the distractors' first and then the action's.
        values: of the action (the `ranges` of its pair).
        nuisances: see NUISANCES.
        distractors: still objects under the action, see DISTRACTOR.
    """

    label: int
    split: str
    seed: int
    frames: int
    crf: int
    background: int
    sprites: tuple[int, ...]
    values: Values
    nuisances: Values
    distractors: tuple[Values, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; the label by name."""
        return asdict(self) | {"label": LABELS[self.label]}


def write_script(label: int, split: str, rng: np.random.Generator) -> Script:
    """Draw a clip of class `label`; for one `rng` state the two classes of a pair differ in the label alone."""
    return Script(
        label=label,
        split=split,
        seed=int(rng.integers(2**31)),
        frames=int(rng.integers(20, 37)),
        crf=int(rng.integers(22, 31)),
        background=int(rng.integers(TEXTURES)),
        sprites=tuple(int(s) for s in rng.integers(TEXTURES, size=4)),
        values=_draw(PAIRS[label // 2].ranges, rng),
        nuisances=_draw(NUISANCES, rng),
        distractors=tuple(_draw(DISTRACTOR, rng) for _ in range(rng.integers(3))),
    )


def scene(script: Script) -> Scene:
    """What the renderer draws; T = script.frames. The second action of a pair is the first one's scene, reversed."""
    rng = np.random.default_rng(script.seed)
    frames, n = script.frames, script.nuisances
    time = np.linspace(0, 1, frames)
    progress = np.clip((time - n["start"]) / (n["end"] - n["start"]), 0, 1)
    progress = progress + n["ease"] * (progress**2 * (3 - 2 * progress) - progress)
    poses = [Pose(**values) for values in script.distractors]
    poses += PAIRS[script.label // 2].play(script.values, progress)
    background = background_texture(script.background, script.split)
    textures = [_stand_out(texture, background) for texture in _textures(script, len(poses))]
    jitter = n["jitter"] * rng.standard_normal((2, frames))
    forward = Scene(
        background=background,
        camera_x=0.5 + n["pan_x"] * (time - 0.5) + jitter[0],
        camera_y=0.5 + n["pan_y"] * (time - 0.5) + jitter[1],
        zoom=np.exp(n["zoom"] * (time - 0.5)),
        tracks=tuple(_track(pose, texture, frames) for pose, texture in zip(poses, textures, strict=True)),
        brightness=n["brightness"] + n["flicker"] * rng.standard_normal(frames),
        noise=n["noise"],
    )
    return reverse(forward) if script.label % 2 else forward


def reverse(scene: Scene) -> Scene:
    """The same scene played backwards."""

    def back(item: Any) -> Any:  # copies: torch takes no negative strides
        return replace(item, **{name: value[::-1].copy() for name, value in vars(item).items() if _over_time(name)})

    return replace(back(scene), tracks=tuple(back(track) for track in scene.tracks))


def _over_time(name: str) -> bool:
    return name in {"camera_x", "camera_y", "zoom", "brightness", "x", "y", "size", "angle", "opacity"}


def _textures(script: Script, count: int) -> list[np.ndarray]:
    """RGBA of every object; what others hide behind is a full square, because a shape with holes hides nothing."""
    textures = [sprite_texture(seed, script.split) for seed in script.sprites[:count]]
    if PAIRS[script.label // 2].play is _hide:
        square = background_texture(script.sprites[count - 1] + TEXTURES, script.split)[::2, ::2]
        textures[-1] = np.concatenate([square, np.ones_like(square[..., :1])], axis=-1)
    return textures


def _stand_out(texture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Lighten or darken an object that nobody could see; a shift, so that the script need not know the textures."""
    ground = background.mean(axis=(0, 1))
    weight = texture[..., 3:]
    gap = (texture[..., :3] * weight).sum(axis=(0, 1)) / weight.sum() - ground
    if np.abs(gap).max() >= CONTRAST:
        return texture
    towards = 1.0 if ground.mean() < 0.5 else -1.0
    shifted = texture[..., :3] + (towards * CONTRAST - gap.mean())
    return np.concatenate([np.clip(shifted, 0, 1), weight], axis=-1)


def _track(pose: Pose, texture: np.ndarray, frames: int) -> Track:
    return Track(texture, *(np.broadcast_to(np.asarray(value, dtype=np.float64), frames).copy() for value in pose))


def _draw(ranges: dict[str, Range], rng: np.random.Generator) -> Values:
    return {name: round(float(rng.uniform(*limits)), 4) for name, limits in ranges.items()}
