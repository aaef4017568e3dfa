"""Augmentation: a function of the generator alone, one change for all frames, crops and flips as the settings say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.video.decode import read_frames
from apt_edge.video.lists import read_list
from apt_edge.video.preprocess import normalise, short_side_crop
from tests.train.conftest import Task
from train.engine.augment import augment_clip, augmented_views, crop_box
from train.recipe import Augment

SPEC = ClipSpec(frames=4, size=32, sampling="segments")
ALL = Augment(randaug="rand-m9-n2-mstd0.5-inc1", brightness=0.2)
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def noise(*shape: int) -> np.ndarray:
    """Random frames."""
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def test_views_are_a_function_of_seed_draw_and_clip(task: Task) -> None:
    items = read_list(task.folder / "train.csv").items[:2]

    def views(seed: int, draws: tuple[int, ...], clip: int) -> list[np.ndarray]:
        rngs = [np.random.default_rng([seed, d, clip]) for d in draws]
        return augmented_views(items[clip], SPEC, ALL, rngs, [False] * len(draws))

    first, second = views(0, (0, 1), 0)
    assert first.shape == SPEC.shape
    assert first.dtype == np.float32
    np.testing.assert_array_equal(views(0, (0,), 0)[0], first)
    (again,) = views(0, (1,), 0)  # the same draw whether or not others are decoded with it
    np.testing.assert_array_equal(again, second)
    others = [first, second, views(1, (0,), 0)[0], views(0, (0,), 1)[0]]
    assert len({view.tobytes() for view in others}) == 4


def test_equal_frames_stay_equal() -> None:
    still = np.repeat(noise(1, 40, 48), 4, axis=0)
    for clip in range(10):
        result = augment_clip(still, SPEC, ALL, np.random.default_rng(clip))
        assert (result == result[:, :1]).all()


def test_nothing_asked_is_the_input_of_evaluation() -> None:
    frames = noise(4, 40, 40)
    for clip in range(3):
        result = augment_clip(frames, SPEC, Augment(**WHOLE), np.random.default_rng(clip))
        np.testing.assert_array_equal(result, normalise(short_side_crop(frames, SPEC), SPEC))


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.75, 4 / 3)), ((0.64, 1.0), (1.0, 1.0)), ((0.3, 0.5), (0.5, 2.0))]
)
def test_crops_have_the_areas_and_shapes_asked_for(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    boxes = np.array([crop_box((240, 240), scale, ratio, np.random.default_rng(clip)) for clip in range(3000)])
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (top + height).max() <= 240
    assert (left + width).max() <= 240
    area, aspect = height * width / 240**2, width / height
    assert scale[0] - 0.01 <= area.min() < scale[0] + 0.02
    assert scale[1] - 0.1 < area.max() <= scale[1] + 0.01
    assert ratio[0] - 0.02 <= aspect.min()
    assert aspect.max() <= ratio[1] + 0.02
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)
    if ratio[0] < 1:
        assert np.log(aspect).std() > 0.2 * np.log(ratio[1] / ratio[0])  # 0.29 for all of a log-uniform range
    inside = (top > 0) & (left > 0) & (top + height < 240) & (left + width < 240)
    assert inside.mean() > 0.5


def test_small_areas_are_uniform_and_lie_anywhere() -> None:
    boxes = [crop_box((100, 200), (0.1, 0.3), (1.0, 1.0), np.random.default_rng(clip)) for clip in range(3000)]
    top, left, height, width = np.array(boxes).T
    area = height * width / 20_000
    assert area.mean() == pytest.approx(0.2, abs=0.005)
    assert area.std() == pytest.approx(0.2 / np.sqrt(12), abs=0.003)
    assert (left / (200 - width)).mean() == pytest.approx(0.5, abs=0.02)
    assert (top / (100 - height)).std() == pytest.approx(1 / np.sqrt(12), abs=0.01)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 300), (0, 75, 100, 150)), ((300, 100), (83, 0, 133, 100)), ((100, 120), (0, 0, 100, 120))],
)
def test_what_cannot_fit_is_the_largest_centred_box(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    ratio = (0.75, 1.5)
    assert crop_box(size, (0.9999, 1.0), ratio, np.random.default_rng(0)) == expected


def test_a_flip_mirrors_what_the_same_draws_give() -> None:
    frames = noise(3, 40, 48)
    plain = augment_clip(frames, SPEC, ALL, np.random.default_rng(5))
    flipped = augment_clip(frames, SPEC, ALL, np.random.default_rng(5), flip=True)
    np.testing.assert_array_equal(flipped, plain[..., ::-1])


def test_a_segment_gives_frames_of_its_own(task: Task) -> None:
    item = read_list(task.folder / "train.csv").items[0]
    part = replace(item, start=0.3, end=0.6)  # frames 3 to 5 of 9, at 10 a second
    frames = read_frames(item.path, range(9))
    spec = ClipSpec(frames=4, size=32, sampling="dense", stride=1)
    for clip in range(5):
        (view,) = augmented_views(part, spec, Augment(**WHOLE), [np.random.default_rng(clip)], [False])
        for frame in view.swapaxes(0, 1):
            distances = [
                np.abs(frame - augment_clip(frames[k : k + 1], spec, Augment(**WHOLE), np.random.default_rng(0))[:, 0])
                for k in range(9)
            ]
            assert int(np.argmin([distance.max() for distance in distances])) in (3, 4, 5)


def test_brightness_stays_within_its_range() -> None:
    frames = np.full((1, 32, 32, 3), 100, np.uint8)
    spec = ClipSpec(frames=1, size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    settings = Augment(brightness=0.3)
    found = [255 * augment_clip(frames, spec, settings, np.random.default_rng(clip)).mean() for clip in range(200)]
    assert 69.5 < min(found) < 75
    assert 125 < max(found) < 130.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.scale=[0.9, 0.2]", "two rising numbers above 0"),
        ("augment.scale=[0.5, 1.5]", "scale must end at 1"),
        ("augment.ratio=[0.0, 1.0]", "two rising numbers above 0"),
        ("augment.num_sample=3", "num_sample 3 draws need as many kept views, and there are 2"),
        ("augment.num_sample=0", "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(task: Task, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task.recipe(override)
