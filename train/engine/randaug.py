"""RandAugment (arXiv 1909.13719) on whole clips, written as video recipes write it: `rand-m4-n2-mstd0.2-inc1`.

Operations, ranges, grey filling and bicubic sampling are those of the published video recipes: 15 operations whose
effect grows with the magnitude, each drawn one applied with probability 1/2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)
FORM = re.compile(r"rand-m(?P<magnitude>\d+)-n(?P<count>\d+)(-mstd(?P<deviation>\d+(\.\d+)?))?-inc1")


@dataclass(frozen=True)
class RandAugment:
    """What a string says.

    Attributes:
        magnitude: strength of the operations, 0 to 10.
        count: operations drawn for a clip, with replacement.
        deviation: standard deviation of a clip's magnitude around `magnitude`.
    """

    magnitude: int
    count: int
    deviation: float


def parse_randaug(text: str) -> RandAugment:
    """Read such a string; raises ValueError saying what it must look like."""
    found = FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is not of the form rand-m4-n2-mstd0.2-inc1: m magnitude, n operations a clip, mstd deviation of "
            "the magnitude (may be left out), inc1 operations that grow with the magnitude (the only kind here)"
        )
    settings = RandAugment(int(found["magnitude"]), int(found["count"]), float(found["deviation"] or 0))
    if settings.magnitude > 10 or not 1 <= settings.count <= 15:
        raise ValueError(f"{text!r}: m must be 0 to 10 and n 1 to 15")
    return settings


def rand_augment(frames_THWC: np.ndarray, settings: RandAugment, rng: np.random.Generator) -> np.ndarray:
    """Change all frames of a clip alike.

    Args:
        frames_THWC: uint8 `[T, H, W, 3]`.
        settings: from `parse_randaug`.
        rng: the clip's own; the number of draws does not depend on what is drawn.

    Returns:
        uint8 `[T, H, W, 3]`.
    """
    drawn = draw_operations(settings, rng)
    if not drawn:
        return frames_THWC
    images = [Image.fromarray(frame) for frame in frames_THWC]
    for name, level in drawn:
        images = [OPERATIONS[name](image, level) for image in images]
    return np.stack([np.asarray(image) for image in images])


def draw_operations(settings: RandAugment, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Names and signed levels (-1 to 1) of the operations that a clip gets, in their order."""
    drawn = []
    for _ in range(settings.count):
        name = tuple(OPERATIONS)[rng.integers(len(OPERATIONS))]
        applied, sign = rng.random() < 0.5, rng.choice((-1, 1))
        magnitude = np.clip(rng.normal(settings.magnitude, settings.deviation), 0, 10)
        if applied:
            drawn.append((name, float(sign * magnitude / 10)))
    return drawn


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY)


def _factor(level: float) -> float:
    return max(0.1, 1 + 0.9 * level)


def _brighten_dark(image: Image.Image, level: float) -> Image.Image:
    added = int(110 * abs(level))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "auto-contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "rotate": lambda image, level: image.rotate(30 * level, Image.Resampling.BICUBIC, fillcolor=GREY),
    "posterize": lambda image, level: ImageOps.posterize(image, max(1, 4 - int(4 * abs(level)))),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 - int(256 * abs(level))),
    "solarize-add": _brighten_dark,
    "colour": lambda image, level: ImageEnhance.Color(image).enhance(_factor(level)),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(_factor(level)),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(_factor(level)),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(_factor(level)),
    "shear-x": lambda image, level: _affine(image, 1, 0.3 * level, 0, 0, 1, 0),
    "shear-y": lambda image, level: _affine(image, 1, 0, 0, 0.3 * level, 1, 0),
    "translate-x": lambda image, level: _affine(image, 1, 0, 0.45 * level * image.width, 0, 1, 0),
    "translate-y": lambda image, level: _affine(image, 1, 0, 0, 0, 1, 0.45 * level * image.height),
}
