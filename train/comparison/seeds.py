"""What several seeds say: mean, spread, and the paired difference with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom.
STUDENT_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MOST_SEEDS = len(STUDENT_T) + 1


class Interval(NamedTuple):
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1); None where there are too few values for them."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(mine: Mapping[int, float], other: Mapping[int, float]) -> Interval | None:
    """`mine - other` over the seeds that both have, with Student's interval; None with fewer than two.

    Args:
        mine, other: `{seed: value}`. With the same seed both had the same clips in the same order, so that what a seed
            makes easier or harder for both is not counted as noise.
    """
    seeds = sorted(mine.keys() & other.keys())
    if not 2 <= len(seeds) <= MOST_SEEDS:
        return None
    differences = np.array([mine[seed] - other[seed] for seed in seeds])
    half = STUDENT_T[len(seeds) - 2] * differences.std(ddof=1) / len(seeds) ** 0.5
    mean = float(differences.mean())
    return Interval(mean, mean - half, mean + half)
