"""Latency of callables, compared so that drift of the machine cannot name a winner. Needs numpy alone.

All times are milliseconds. Contenders run interleaved, in one process, and are compared round by round: what slows the
machine for a minute slows every contender of those rounds. Nothing is clipped or dropped: an outlier is a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """Latency of one contender over another's: median of the per-round ratios and its 95 % interval."""

    median: float
    low: float
    high: float


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


def measure_interleaved(
    contenders: Mapping[str, Callable[[], None]],
    rounds: int,
    warmup: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int], object] | None = None,
) -> dict[str, np.ndarray]:
    """Time every contender once a round.

    The order is reversed every other round (ABBA), so that linear drift favours nobody, and moves on by one contender
    every two rounds, so that each runs equally often after itself, with its weights still in the caches.

    Args:
        contenders: name to a callable that returns when its work is done; a device's callable waits for the device.
        rounds: timed runs of each contender.
        warmup: rounds run before in the same order and not recorded.
        clock: a monotonic clock in nanoseconds.
        progress: called after each timed round with the number of rounds done.

    Returns:
        For each contender its times in ms, one a round: element i of two contenders belongs to the same round.

    Raises:
        ValueError: no contender, fewer than one round, or a negative warm-up.
    """
    if not contenders or rounds < 1 or warmup < 0:
        raise ValueError(f"{len(contenders)} contenders, {rounds} rounds, {warmup} warm-up rounds")
    names = list(contenders)
    for index in range(warmup):
        for name in _order(names, index):
            contenders[name]()
    times = {name: np.zeros(rounds) for name in names}
    for index in range(rounds):
        for name in _order(names, index):
            begin = clock()
            contenders[name]()
            times[name][index] = (clock() - begin) / 1e6
        if progress is not None:
            progress(index + 1)
    return times


def _order(names: list[str], index: int) -> list[str]:
    shift = index // 2 % len(names)
    order = names[shift:] + names[:shift]
    return order[::-1] if index % 2 else order


def summarise(times: np.ndarray) -> dict[str, float]:
    """Statistics of all `times`, named and computed as trtexec does.

    Returns:
        `median` (mean of the middle two for even n), `p90`, `p99`, `mean` in ms; `cv`, the population standard
        deviation over the mean (a fraction); `n`.
    """
    return {
        "median": float(np.median(times)),
        "p90": percentile(times, 90),
        "p99": percentile(times, 99),
        "mean": float(np.mean(times)),
        "cv": float(np.std(times) / np.mean(times)),
        "n": len(times),
    }


def paired_ratio(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Ratio:
    """How long `a` takes for one unit of `b`: median of a[i] / b[i] with a percentile-bootstrap interval.

    Args:
        a, b: times of the same rounds, as `measure_interleaved` returns them.
        seed: of the bootstrap, which draws whole rounds.

    Raises:
        ValueError: the two do not have the same, non-zero number of rounds.
    """
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"{len(a)} and {len(b)} times cannot be paired")
    ratios = np.asarray(a) / np.asarray(b)
    draws = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def verdict(ratio: Ratio) -> str:
    """`faster` or `slower` than the denominator; `no difference` when the interval holds 1."""
    if ratio.high < 1:
        return "faster"
    if ratio.low > 1:
        return "slower"
    return "no difference"
