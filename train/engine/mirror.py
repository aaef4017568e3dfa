"""What a class is called in the mirror: a flipped clip of "slide left" shows "slide right"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from apt_edge.errors import ConfigError

# Whole words; what joins words in class names (blanks, underscores, hyphens, brackets) separates them.
SIDE = re.compile(r"(?<![^\W_])(left|right)(?![^\W_])", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}


def mirrored(labels: Sequence[str], pairs: Mapping[str, str]) -> list[int | None]:
    """The class that each class becomes when its clips are flipped.

    Args:
        labels: names of the classes.
        pairs: names that are each other's mirror image, whatever their words say. A name beside itself looks the same
            in the mirror.

    Returns:
        For each class its own number when its name does not tell left from right; else the class whose name has the two
        words changed about, in any case; None, never to be flipped, when there is no such class.

    Raises:
        ConfigError: a name of `pairs` is no class, or stands in two of them.
    """
    numbers = {_plain(label): number for number, label in enumerate(labels)}
    result = [numbers.get(_plain(SIDE.sub(_change, label))) for label in labels]
    for number, label in enumerate(labels):
        if not SIDE.search(label):
            result[number] = number  # also of two names that differ in nothing but their case
    known = {label: number for number, label in enumerate(labels)}
    images: dict[str, str] = {}
    for name, image in [*pairs.items(), *((image, name) for name, image in pairs.items())]:
        if name not in known:
            raise ConfigError(
                f"augment.mirror names a class that does not exist: {name!r}",
                found=f"{len(labels)} classes, the first is {labels[0]!r}",
                fix="write class names as in the label file",
            )
        if images.setdefault(name, image) != image:
            raise ConfigError(f"augment.mirror gives {name!r} two images", found=f"{images[name]!r} and {image!r}")
    for name, image in images.items():
        result[known[name]] = known[image]
    return result


def _plain(label: str) -> str:
    return " ".join(label.casefold().split())


def _change(word: re.Match[str]) -> str:
    return OTHER[word[0].casefold()]
