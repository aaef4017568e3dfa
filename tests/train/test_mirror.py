"""Classes in the mirror: which change about, which stay, which are never flipped."""

from __future__ import annotations

import pytest

from apt_edge.errors import ConfigError
from train.engine.mirror import mirrored

SSV2 = [
    "Pushing [something] from left to right",
    "Approaching [something] with your camera",
    "Pushing [something] from right to left",
    "Turning the camera left while filming [something]",
    "Turning the camera Right while filming [something]",
    "Pulling [something] from right to left",
    "Folding [something]",
]


def test_templates_of_something_something() -> None:
    assert mirrored(SSV2, {}) == [2, 1, 0, 4, 3, None, 6]


def test_only_whole_words_tell_the_sides() -> None:
    labels = ["bright light", "leftover", "upright", "Right", "LEFT", "copyleft"]
    assert mirrored(labels, {}) == [0, 1, 2, 4, 3, 5]


@pytest.mark.parametrize(
    "labels",
    [
        ["turn_left", "turn_right"],
        ["left-handed", "right-handed"],
        ["slide left", "slide  right"],
        ["from [left] on", "from [right] on"],
        ["Turn left then right", "turn Right then Left"],
    ],
)
def test_whatever_joins_the_words(labels: list[str]) -> None:
    assert mirrored(labels, {}) == [1, 0]


def test_a_name_that_holds_both_sides_alike_is_its_own_image() -> None:
    assert mirrored(["swing left, swing right", "swing right, swing left"], {}) == [1, 0]
    assert mirrored(["left and left"], {}) == [None]


def test_names_that_differ_in_case_alone_stay_themselves() -> None:
    assert mirrored(["Wave", "wave"], {}) == [0, 1]


def test_pairs_are_said_in_one_direction_and_win() -> None:
    labels = ["clockwise", "anticlockwise", "turn left", "turn right", "keep right"]
    assert mirrored(labels, {"clockwise": "anticlockwise"}) == [1, 0, 3, 2, None]
    assert mirrored(labels, {"turn left": "turn left", "keep right": "keep right"}) == [0, 1, 2, 2, 4]
    assert mirrored(labels, {"turn left": "turn right", "turn right": "turn left"}) == [0, 1, 3, 2, None]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"Clockwise": "anticlockwise"}, "names a class that does not exist: 'Clockwise'"),
        ({"clockwise": "widdershins"}, "names a class that does not exist: 'widdershins'"),
        ({"clockwise": "anticlockwise", "still": "clockwise"}, "gives 'clockwise' two images"),
    ],
)
def test_wrong_pairs_are_refused(pairs: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mirrored(["clockwise", "anticlockwise", "still"], pairs)
