"""The published sampling rules once more, in plain Python and exact fractions: what `apt_edge.video.sampling` must say.

Kinetics, UCF101 and HMDB51 are sampled densely, Something-Something v2 in segments. Nothing here is imported from the
library, and no number is computed in floating point. Random numbers come from `draw(low, high)`, an integer in
[low, high), asked for in the order of the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

Draw = Callable[[int, int], int]


def evenly(first: int, last: int, number: int) -> list[Fraction]:
    """`number` points from `first` to `last`, both included; a single one is `first`."""
    if number == 1:
        return [Fraction(first)]
    return [first + Fraction((last - first) * i, number - 1) for i in range(number)]


def dense_clip(length: int, frames: int, stride: int, draw: Draw | None) -> list[int]:
    """Training clip with `draw`, validation clip without."""
    span = frames * stride
    if length <= span:
        points = evenly(0, length, length // stride)
        while len(points) < frames:
            points.append(Fraction(length))
        return [int(min(max(point, 0), length - 1)) for point in points]
    start = (length - 1 - span) // 2 if draw is None else draw(span, length) - span
    end = start + span
    return [int(min(max(point, start), end - 1)) for point in evenly(start, end, frames)]


def dense_test(length: int, frames: int, stride: int, clips: int) -> list[list[int]]:
    """All clips of a test."""
    if clips == 1:
        return [dense_clip(length, frames, stride, None)]
    seen = list(range(0, length, stride))
    while len(seen) < frames:
        seen.append(seen[-1])
    step = max(Fraction(len(seen) - frames, clips - 1), Fraction(0))
    result = []
    for number in range(clips):
        start = int(number * step)
        result.append(seen[start : start + frames])
    return result


def segments_clip(length: int, frames: int, draw: Draw | None) -> list[int]:
    """Training clip with `draw`, validation clip without."""
    if draw is None:
        return [middle(length, frames, i) for i in range(frames)]
    whole = length // frames
    if whole == 0:
        return [0] * frames
    return [i * whole + draw(0, whole) for i in range(frames)]


def segments_test(length: int, frames: int, clips: int) -> list[list[int]]:
    """One or two clips of a test."""
    if clips == 1:
        return [segments_clip(length, frames, None)]
    starts = [length * i // frames for i in range(frames)]
    middles = [middle(length, frames, i) for i in range(frames)]
    together = sorted(starts + middles)
    return [together[0::2], together[1::2]]


def middle(length: int, frames: int, part: int) -> int:
    """The frame in the middle of one of `frames` equal parts."""
    return int(Fraction(length, frames) / 2 + Fraction(length, frames) * part)
