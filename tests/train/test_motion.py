"""Motion soup: targets follow the kinematics, ignore the camera, and transform exactly under the symmetries."""

from dataclasses import replace

import numpy as np
import pytest

from train.synthetic.motion import CHANNELS, FRAMES, Soup, Symmetry, draw, make_clip, random_soup
from train.synthetic.scene import Scene, Track

NAMES = list(CHANNELS)
ONES = np.ones(FRAMES)
RAMP = np.linspace(-0.5, 0.5, FRAMES)
WHITE = np.ones((32, 32, 4), np.float32)


def track(**changes: np.ndarray) -> Track:
    return replace(Track(WHITE, 0.5 * ONES, 0.5 * ONES, 0.25 * ONES, 0 * ONES, ONES), **changes)


def soup(*tracks: Track, moving: tuple[bool, ...] | None = None, **camera: np.ndarray) -> Soup:
    scene = Scene(np.zeros((64, 64, 3), np.float32), 0.5 * ONES, 0.5 * ONES, ONES, tracks, ONES, 0.0)
    return Soup(replace(scene, **camera), moving or (True,) * len(tracks))


def sums(item: Soup) -> dict[str, float]:
    """Each channel summed over the clip, in raw units."""
    _, target = draw(item, np.random.default_rng(0))
    assert target.shape == (4, 6, 6, len(CHANNELS))
    return {name: float(target[..., i].sum() * CHANNELS[name]) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("channel", "changes"),
    [
        ("u", {"x": 0.5 + 0.4 * RAMP}),
        ("v", {"y": 0.5 + 0.4 * RAMP}),
        ("growth", {"size": 0.25 * np.exp(RAMP)}),
        ("spin", {"angle": 2 * RAMP}),
        ("fade", {"opacity": 0.5 + 0.9 * RAMP}),
        ("turn", {"x": 0.5 + 0.2 * np.cos(4 * RAMP), "y": 0.5 + 0.2 * np.sin(4 * RAMP)}),
    ],
)
def test_each_rate_shows_in_its_channel_with_its_sign(channel: str, changes: dict[str, np.ndarray]) -> None:
    forward = sums(soup(track(**changes)))
    backward = sums(soup(track(**{k: v[::-1] for k, v in changes.items()})))
    assert forward[channel] > 0.01
    assert backward[channel] == pytest.approx(-forward[channel], rel=1e-3)
    assert forward["coverage"] == pytest.approx(backward["coverage"], rel=1e-3)


def test_mean_of_u_is_the_velocity_times_the_area() -> None:
    values = sums(soup(track(x=0.5 + 0.35 * RAMP)))
    assert values["u"] / values["coverage"] == pytest.approx(0.35 / (FRAMES - 1), rel=1e-3)
    assert values["v"] == pytest.approx(0, abs=1e-6)


def test_two_objects_approach_and_one_emerges() -> None:
    left, right = track(x=0.25 + 0.1 * RAMP), track(x=0.75 - 0.1 * RAMP)
    assert sums(soup(left, right))["approach"] > 0.01
    assert sums(soup(left))["approach"] == 0
    hidden = soup(track(x=0.5 + 0.5 * np.linspace(0, 1, FRAMES)), track(size=0.3 * ONES), moving=(True, False))
    assert sums(hidden)["emergence"] > 0.01


def test_camera_alone_gives_no_targets() -> None:
    camera = {"camera_x": 0.5 + 0.3 * RAMP, "camera_y": 0.5 - 0.2 * RAMP, "zoom": np.exp(0.3 * RAMP)}
    frames, target = draw(soup(track(), moving=(False,), **camera), np.random.default_rng(0))
    assert not np.array_equal(frames[0], frames[-1])
    assert not target.any()
    rates = sums(soup(track(), **camera))
    assert all(rates[name] == pytest.approx(0, abs=1e-6) for name in ("u", "v", "growth", "spin", "fade", "turn"))


def test_a_reversed_scene_has_the_reversed_targets() -> None:
    item = random_soup(np.random.default_rng(3))
    scene = replace(item.scene, noise=0.0, brightness=ONES)
    tracks = tuple(
        Track(t.texture, t.x[::-1], t.y[::-1], t.size[::-1], t.angle[::-1], t.opacity[::-1]) for t in scene.tracks
    )
    camera = {"camera_x": scene.camera_x[::-1], "camera_y": scene.camera_y[::-1], "zoom": scene.zoom[::-1]}
    frames, target = draw(replace(item, scene=scene), np.random.default_rng(0))
    _, backward = draw(replace(item, scene=replace(scene, tracks=tracks, **camera)), np.random.default_rng(0))
    assert np.abs(target).max() > 1
    assert np.allclose(backward, Symmetry(reverse=True).apply(frames, target)[1], atol=1e-4)


def test_symmetries_undo_themselves_and_flip_the_right_signs() -> None:
    frames, target = make_clip(0, 5)
    for name in ("flip_x", "flip_y", "transpose", "reverse"):
        change = Symmetry(**{name: True})
        once = change.apply(frames, target)
        assert not np.array_equal(once[0], frames)
        twice = change.apply(*once)
        assert np.array_equal(twice[0], frames)
        assert np.array_equal(twice[1], target)
    mirrored = Symmetry(flip_x=True).apply(frames, target)[1][..., ::-1, :]
    assert np.array_equal(mirrored[..., NAMES.index("u")], -target[..., NAMES.index("u")])
    assert np.array_equal(mirrored[..., NAMES.index("v")], target[..., NAMES.index("v")])
    swapped = Symmetry(transpose=True).apply(frames, target)[1].swapaxes(1, 2)
    assert np.array_equal(swapped[..., NAMES.index("u")], target[..., NAMES.index("v")])
    assert np.array_equal(swapped[..., NAMES.index("spin")], -target[..., NAMES.index("spin")])


def test_clips_follow_from_seed_and_index() -> None:
    first, again = make_clip(1, 2), make_clip(1, 2)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], make_clip(1, 3)[0])
    assert not np.array_equal(first[0], make_clip(2, 2)[0])


def test_targets_are_roughly_standardised() -> None:
    spread = np.stack([make_clip(4, index)[1] for index in range(150)]).std(axis=(0, 1, 2, 3))
    assert spread.min() > 0.5
    assert spread.max() < 1.8
