"""RandAugment: what a string says, that a clip's frames agree, that strength and choice are those of the string."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import Task
from train.engine.randaug import OPERATIONS, RandAugment, draw_operations, parse_randaug, rand_augment


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture `[60, 80, 3]` with every level in it."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC))


def changed(picture: np.ndarray, name: str, level: float) -> float:
    """Mean absolute change in levels."""
    result = np.asarray(OPERATIONS[name](Image.fromarray(picture), level))
    assert (result.shape, result.dtype) == (picture.shape, np.uint8)
    return float(np.abs(result.astype(int) - picture).mean())


def test_a_string_says_magnitude_number_and_deviation() -> None:
    assert parse_randaug("rand-m4-n2-mstd0.2-inc1") == RandAugment(4, 2, 0.2)
    assert parse_randaug("rand-m10-n3-inc1") == RandAugment(10, 3, 0.0)


@pytest.mark.parametrize(
    "text", ["m4-n2", "rand-m4-n2-mstd0.2", "rand-n2-m4-inc1", "rand-m4-n2-inc0", "rand-m4.5-n2-inc1", "augmix-m3-inc1"]
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not of the form rand-m4-n2-mstd0\.2-inc1"):
        parse_randaug(text)


@pytest.mark.parametrize("text", ["rand-m11-n2-inc1", "rand-m4-n0-inc1", "rand-m4-n16-inc1"])
def test_numbers_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="m must be 0 to 10 and n 1 to 15"):
        parse_randaug(text)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"auto-contrast", "equalize", "invert", "posterize"}))
def test_an_operation_grows_with_its_level_from_nothing(picture: np.ndarray, name: str) -> None:
    for sign in (-1, 1):
        changes = [changed(picture, name, sign * level) for level in (0.0, 0.2, 0.9)]
        assert changes[0] == 0
        assert 0 < changes[1] < changes[2]


def test_posterising_keeps_four_bits_at_level_0_and_one_at_level_1(picture: np.ndarray) -> None:
    for level, kept in ((0.0, 0xF0), (0.5, 0xC0), (1.0, 0x80)):
        result = np.asarray(OPERATIONS["posterize"](Image.fromarray(picture), level))
        np.testing.assert_array_equal(result, picture & kept)


def test_geometry_follows_the_published_ranges() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[50, 50] = 255
    moved = np.asarray(OPERATIONS["translate-x"](Image.fromarray(frame), 0.4))  # by 0.45 * 0.4 of the width
    assert moved[50, 32].min() == 255
    np.testing.assert_array_equal(moved[:, 82:], 128)  # grey comes in from the right
    up = np.asarray(OPERATIONS["translate-y"](Image.fromarray(frame), -0.4))
    assert up[68, 50].min() == 255
    turned = np.asarray(OPERATIONS["rotate"](Image.fromarray(frame[:, ::-1] | 255), 1.0))
    assert turned[0, 0].tolist() == [128] * 3  # a turn by 30 degrees brings in the corners


def test_choice_probability_and_magnitude_are_those_of_the_string() -> None:
    settings = parse_randaug("rand-m4-n2-mstd0.2-inc1")
    drawn = [draw_operations(settings, np.random.default_rng([7, clip])) for clip in range(6000)]
    levels = np.array([level for operations in drawn for _, level in operations])
    names = Counter(name for operations in drawn for name, _ in operations)
    assert {len(operations) for operations in drawn} == {0, 1, 2}
    assert len(levels) / 12000 == pytest.approx(0.5, abs=0.02)
    assert len(names) == 15
    assert min(names.values()) > 0.8 * max(names.values())
    assert np.abs(levels).mean() == pytest.approx(0.4, abs=0.002)
    assert np.abs(levels).std() == pytest.approx(0.02, abs=0.002)
    assert (levels > 0).mean() == pytest.approx(0.5, abs=0.03)
    strong = [
        draw_operations(parse_randaug("rand-m10-n2-mstd3-inc1"), np.random.default_rng(clip)) for clip in range(99)
    ]
    assert all(0 <= abs(level) <= 1 for operations in strong for _, level in operations)


def test_equal_frames_stay_equal_and_different_ones_get_the_same_change(picture: np.ndarray) -> None:
    settings = parse_randaug("rand-m9-n4-mstd0.5-inc1")
    for clip in range(20):
        still = rand_augment(np.stack([picture] * 3), settings, np.random.default_rng(clip))
        assert (still == still[0]).all()
        pair = rand_augment(np.stack([picture, picture[::-1]]), settings, np.random.default_rng(clip))
        np.testing.assert_array_equal(pair[0], still[0])


def test_the_generator_decides_and_its_use_does_not_depend_on_the_draw(picture: np.ndarray) -> None:
    settings = parse_randaug("rand-m4-n2-mstd0.2-inc1")
    frames = np.stack([picture] * 2)
    results, after = [], []
    for clip in range(12):
        rng = np.random.default_rng(clip)
        results.append(rand_augment(frames, settings, rng))
        other = np.random.default_rng(clip)
        np.testing.assert_array_equal(rand_augment(frames, settings, other), results[-1])
        after.append(rng.random() == other.random())
    assert all(after)
    assert len({result.tobytes() for result in results}) > 6


def test_magnitude_9_changes_more_than_magnitude_0(picture: np.ndarray) -> None:
    frames = picture[None]
    change = {
        m: np.mean(
            [
                np.abs(rand_augment(frames, RandAugment(m, 2, 0.0), np.random.default_rng(clip)).astype(int) - frames)
                for clip in range(150)
            ]
        )
        for m in (0, 9)
    }
    assert change[9] > 1.5 * change[0]


def test_a_recipe_names_the_wrong_string(task: Task) -> None:
    from apt_edge.errors import ConfigError

    with pytest.raises(ConfigError, match=r"augment\.randaug: 'rand-m4' is not of the form"):
        task.recipe("augment.randaug=rand-m4")
