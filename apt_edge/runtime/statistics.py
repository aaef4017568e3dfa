"""Statistics of latencies that name no winner by chance. Needs numpy alone; all times are milliseconds.

Nothing is clipped or dropped: an outlier is a result.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
DRAWS = 1 << 21  # of the bootstrap at once: 16 MB
TAIL = 0.01  # of the bootstrap, at either end; with 0.025 equal contenders would be told apart in 6 % of cases
LEAST_PAIRED = 10  # rounds, five blocks: fewer can exclude nothing at 95 %
RESOLUTION = 0.005  # of a ratio between two sessions
LEAST_TREND = 9  # times: thirds of three
BEYOND = 2.576  # standard deviations: one case in a hundred


class Ratio(NamedTuple):
    """Latency of one contender over another's, and its 95 % interval."""

    median: float
    low: float
    high: float


class Median(NamedTuple):
    """A median over ABBA blocks, and its 95 % interval."""

    middle: float
    low: float
    high: float


class Trend(NamedTuple):
    """By which fraction times changed from their first third to their last, and whether chance could do that."""

    change: float
    beyond_noise: bool


def percentile(times: np.ndarray, p: float) -> float:
    """The p-th percentile exactly as trtexec reports it: an element of `times`, no interpolation.

    sorted[max(n - 1 - int((1 - p / 100) * n), 0)], evaluated in float32 as trtexec does (NVIDIA/TensorRT
    samples/common/sampleReporting.cpp): float64 would choose another element at n = 100 for p = 99.

    Raises:
        ValueError: no times, or p outside [0, 100].
    """
    if len(times) == 0 or not 0 <= p <= 100:
        raise ValueError(f"percentile({p}) of {len(times)} times")
    excluded = int((np.float32(1) - np.float32(p) / np.float32(100)) * np.float32(len(times)))
    return float(np.sort(times)[max(len(times) - 1 - excluded, 0)])


def summarise(times: np.ndarray, percentiles: Iterable[float] = (90, 95, 99)) -> dict[str, float]:
    """Statistics of all `times`, named and computed as trtexec does.

    Returns:
        `min`, `median` (mean of the middle two for even n), `p90` and the like, `max`, `mean` in ms; `cv`, the
        population standard deviation over the mean (a fraction); `n`.
    """
    mean = float(np.mean(times))
    return {
        "min": float(np.min(times)),
        "median": float(np.median(times)),
        **{f"p{p:g}": percentile(times, p) for p in percentiles},
        "max": float(np.max(times)),
        "mean": mean,
        "cv": float(np.std(times)) / (mean or 1),  # transfers that were left out take no time
        "n": len(times),
    }


def paired_ratio(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Ratio:
    """How long `a` takes for one unit of `b`: `median_of_blocks` of the log-ratios of the rounds.

    Args:
        a, b: times of the same rounds, as `measure_interleaved` returns them; an odd last round is half a block.
        seed: of the bootstrap.

    Raises:
        ValueError: the two do not have the same number of rounds, or fewer than ten.
    """
    if len(a) != len(b) or len(a) < LEAST_PAIRED:
        raise ValueError(f"{len(a)} and {len(b)} times cannot be paired: {LEAST_PAIRED} rounds or more of both can")
    return Ratio(*map(float, np.exp(median_of_blocks(np.log(np.asarray(a) / np.asarray(b)), seed))))


def median_of_blocks(values: np.ndarray, seed: int = 0) -> Median:
    """Median over the ABBA blocks of what each round gave, with a bootstrap interval of whole blocks.

    A block is two rounds in mirrored order, so that linear drift cancels in the mean of its two values. Which of
    the two contenders is first in a block is drawn at random (`measure_interleaved`): whatever drift, periodic load or
    memory the machine has, between equal contenders every block is as likely to favour one as the other.

    The interval holds the middle 98 % of the resampled medians (percentile bootstrap: Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13), stretched about the median by (m + 1) / (m - 1) for m blocks. That
    is within 6 % of sqrt(m / (m - 1)) times Student's quantile over the normal one, by which such intervals are too
    narrow (Hesterberg, What Teachers Should Know about the Bootstrap, 2015, on the expanded percentile interval).
    """
    starts = np.arange(0, len(values), 2)
    blocks = np.sort(np.add.reduceat(values, starts) / np.minimum(len(values) - starts, 2))
    median, lower, upper = float(np.median(blocks)), *_middle_ranks(len(blocks), seed)
    ends = np.quantile((blocks[lower] + blocks[upper]) / 2, [TAIL, 1 - TAIL])
    low, high = median + (len(blocks) + 1) / (len(blocks) - 1) * (ends - median)
    return Median(median, float(low), float(high))


@lru_cache(maxsize=16)
def _middle_ranks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which elements of `count` sorted ones are the middle two of each resample."""
    random, middle = np.random.default_rng(seed), [(count - 1) // 2, count // 2]
    size = max(1, DRAWS // count)  # of a chunk: the draws are the same however many are made at once
    chunks = [
        np.partition(random.integers(0, count, (min(size, RESAMPLES - start), count)), middle, axis=1)[:, middle]
        for start in range(0, RESAMPLES, size)
    ]
    lower, upper = np.concatenate(chunks).T
    return lower, upper


def verdict(ratio: Ratio) -> str:
    """`faster` or `slower` than the denominator; `no difference` when the interval comes within 0.5 % of 1.

    Two sessions of one graph differ by up to that as long as they live: by where their memory happens to lie, which no
    number of rounds averages out (Mytkowicz and others, Producing Wrong Data Without Doing Anything Obviously Wrong,
    2009; `bench.aa` measures it).
    """
    if ratio.high < 1 / (1 + RESOLUTION):
        return "faster"
    if ratio.low > 1 + RESOLUTION:
        return "slower"
    return "no difference"


def trend(times: np.ndarray) -> Trend | None:
    """The change from the first third of `times`, in their order, to the last; None for fewer than nine.

    `change` compares the medians. It is beyond noise when the ranks of the two thirds differ by more than chance
    makes them in one case of a hundred (Mann and Whitney, 1947); that takes fifteen times at least.
    """
    if len(times) < LEAST_TREND:
        return None
    third = len(times) // 3
    first, last = np.sort(times[:third]), np.asarray(times[-third:])
    wins = (np.searchsorted(first, last, "left") + np.searchsorted(first, last, "right")).sum() / 2
    score = (wins - third**2 / 2) / np.sqrt(third**2 * (2 * third + 1) / 12)
    return Trend(float(np.median(last) / np.median(first) - 1), bool(abs(score) > BEYOND))
