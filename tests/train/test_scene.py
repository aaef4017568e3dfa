"""The renderer: geometry, occlusion, camera, determinism and disjoint texture splits."""

import numpy as np
import pytest

from apt_edge.errors import ConfigError
from train.synthetic.scene import Scene, Track, background_texture, render, render_with_visibility, sprite_texture

WHITE = np.ones((32, 32, 4), np.float32)
ONES = np.ones(3)


def track(
    x: float = 0.5, y: float = 0.5, size: float = 0.25, opacity: float = 1.0, texture: np.ndarray = WHITE
) -> Track:
    return Track(texture, x * ONES, y * ONES, size * ONES, 0 * ONES, opacity * ONES)


def scene(*tracks: Track, camera_x: float = 0.5, zoom: float = 1.0, noise: float = 0.0) -> Scene:
    black = np.zeros((64, 64, 3), np.float32)
    return Scene(black, camera_x * ONES, 0.5 * ONES, zoom * ONES, tracks, ONES, noise)


def draw(item: Scene, seed: int = 0) -> np.ndarray:
    return render(item, 48, np.random.default_rng(seed))


def centre_of_mass(frame: np.ndarray) -> tuple[float, float]:
    weight = frame[..., 0].astype(float)
    y, x = np.mgrid[0:48, 0:48] + 0.5
    return float((x * weight).sum() / weight.sum() / 48), float((y * weight).sum() / weight.sum() / 48)


def test_sprite_lands_where_the_track_says() -> None:
    frames = draw(scene(track(0.25, 0.75)))
    assert frames.shape == (3, 48, 48, 3)
    assert frames.dtype == np.uint8
    assert centre_of_mass(frames[0]) == pytest.approx((0.25, 0.75), abs=0.01)
    assert (frames[0, ..., 0] > 127).sum() == pytest.approx(12 * 12, abs=14)


def test_camera_moves_and_magnifies_the_sprites() -> None:
    assert centre_of_mass(draw(scene(track(), camera_x=0.75))[0])[0] == pytest.approx(0.25, abs=0.01)
    assert (draw(scene(track(), zoom=2.0))[0, ..., 0] > 127).sum() == pytest.approx(24 * 24, abs=28)


def test_positive_angle_turns_clockwise_on_the_screen() -> None:
    half = WHITE.copy()
    half[:, :16, 3] = 0  # only the right half is there
    turned = Track(half, 0.5 * ONES, 0.5 * ONES, 0.5 * ONES, np.pi / 2 * ONES, ONES)
    assert centre_of_mass(draw(scene(turned))[0])[1] > 0.55


def test_later_tracks_hide_earlier_ones() -> None:
    _, visible = render_with_visibility(scene(track(), track(size=0.5)), 48, np.random.default_rng(0))
    assert visible.shape == (3, 2, 48, 48)
    assert visible[:, 0].max() == 0
    _, visible = render_with_visibility(scene(track(), track(size=0.5, opacity=0.25)), 48, np.random.default_rng(0))
    assert visible[0, 0, 24, 24] == pytest.approx(0.75, abs=1e-3)


def test_noise_comes_from_the_generator_alone() -> None:
    noisy = scene(track(), noise=5.0)
    assert np.array_equal(draw(noisy, 1), draw(noisy, 1))
    assert not np.array_equal(draw(noisy, 1), draw(noisy, 2))
    assert np.array_equal(draw(scene(track()), 1), draw(scene(track()), 2))


def test_textures_follow_seed_and_split() -> None:
    for maker, shape in ((sprite_texture, (32, 32, 4)), (background_texture, (128, 128, 3))):
        first = maker(7, "train").copy()
        maker.cache_clear()
        assert first.shape == shape
        assert first.min() >= 0
        assert first.max() <= 1
        assert np.array_equal(first, maker(7, "train"))
        seen = {maker(seed, split).tobytes() for split in ("pretrain", "train", "val") for seed in range(20)}
        assert len(seen) == 60


def test_every_sprite_has_a_body() -> None:
    cover = [sprite_texture(seed, "val")[..., 3].mean() for seed in range(100)]
    assert min(cover) > 0.05
    assert max(cover) < 0.95


def test_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="pretrain, train, val"):
        sprite_texture(0, "test")
