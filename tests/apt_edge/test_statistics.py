"""The statistics of timing, on simulated machines whose drift, load and noise are known.

`SIMULATIONS` sessions of each kind of machine are measured by the real `measure_interleaved`; a session of 40 rounds is
the beginning of one of 100.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from apt_edge.runtime.statistics import (
    RESAMPLES,
    Ratio,
    _middle_ranks,
    paired_ratio,
    percentile,
    summarise,
    trend,
    verdict,
)
from tests.apt_edge.machine_clock import Machine, noise

SIMULATIONS = 1000
ROUNDS = (10, 20, 40, 100)
RUNS = 2 * ROUNDS[-1]
INDEX = np.arange(RUNS)
Slowness = Callable[[np.random.Generator], np.ndarray]


def quiet(random: np.random.Generator) -> np.ndarray:
    return np.ones(RUNS)


def heating(random: np.random.Generator) -> np.ndarray:
    """Twice as slow at the end as at the beginning."""
    return 1 + INDEX / RUNS


def waves(random: np.random.Generator) -> np.ndarray:
    """A load that comes and goes, by 30 %, in any period from 3 to 300 runs."""
    period = np.exp(random.uniform(np.log(3), np.log(300)))
    return 1 + 0.3 * np.sin(2 * np.pi * (INDEX / period + random.random()))


def levels(random: np.random.Generator) -> np.ndarray:
    """A clock that jumps between two frequencies, every 20 runs on average."""
    return 1 + 0.4 * (np.cumsum(random.random(RUNS) < 0.05) % 2)


def spikes(random: np.random.Generator) -> np.ndarray:
    """One run of twenty takes two to ten times as long."""
    return np.where(random.random(RUNS) < 0.05, random.uniform(2, 10, RUNS), 1)


def heavy_tails(random: np.random.Generator) -> np.ndarray:
    """Delays without a finite mean."""
    return 1 + 0.02 * np.abs(random.standard_cauchy(RUNS))


def correlated(random: np.random.Generator) -> np.ndarray:
    """Noise of 5 % that is forgotten over ten runs, an autoregressive process."""
    return np.exp(autoregressive(random, 0.9))


def briefly_correlated(random: np.random.Generator) -> np.ndarray:
    """Noise of 5 % that is forgotten over two runs: it is what tells a round from a block."""
    return np.exp(autoregressive(random, 0.5))


def autoregressive(random: np.random.Generator, memory: float) -> np.ndarray:
    shocks = 0.05 * random.standard_normal(RUNS)
    state = [shocks[0]]
    for shock in shocks[1:]:
        state.append(memory * state[-1] + np.sqrt(1 - memory**2) * shock)
    return np.array(state)


def everything(random: np.random.Generator) -> np.ndarray:
    return heating(random) * waves(random) * levels(random) * spikes(random) * correlated(random)


MACHINES: list[Slowness] = [
    *(quiet, heating, waves, levels, spikes, heavy_tails, correlated, briefly_correlated, everything),
]


def told_apart(
    slowness: Slowness, a: float, b: float, told: Callable[[Ratio], bool], simulations: int = SIMULATIONS
) -> dict[int, float]:
    """In which share of sessions contenders that take `a` and `b` ms are told apart, by the number of rounds."""
    calls = dict.fromkeys(ROUNDS, 0)
    for seed in range(simulations):
        random = np.random.default_rng(seed)
        machine = Machine(slowness(random) * noise(RUNS, random))
        times = machine.measure({"a": a, "b": b}, ROUNDS[-1], seed)
        for rounds in ROUNDS:
            calls[rounds] += told(paired_ratio(times["a"][:rounds], times["b"][:rounds]))
    return {rounds: count / simulations for rounds, count in calls.items()}


def excludes_one(ratio: Ratio) -> bool:
    return not ratio.low <= 1 <= ratio.high


def names_winner(ratio: Ratio) -> bool:
    return verdict(ratio) != "no difference"


@pytest.mark.parametrize("slowness", MACHINES)
def test_equal_contenders_are_seldom_told_apart(slowness: Slowness) -> None:
    rates = told_apart(slowness, 10, 10, excludes_one)
    assert max(rates.values()) <= 0.05, rates


@pytest.mark.parametrize(("slowness", "least"), [(quiet, 0.9), (heating, 0.9), (levels, 0.8), (correlated, 0.8)])
def test_a_difference_of_three_percent_is_found(slowness: Slowness, least: float) -> None:
    rates = told_apart(slowness, 10.3, 10, names_winner, 200)
    assert rates[40] >= least, rates
    assert rates[100] >= rates[40] >= rates[20] >= rates[10] > 0.1, rates


@pytest.mark.parametrize(("slowness", "least"), [(heating, 0.99), (waves, 0.2), (levels, 0.5), (correlated, 0.5)])
def test_one_after_the_other_names_winners_among_equals(slowness: Slowness, least: float) -> None:
    """The mean of all runs of A, then the mean of all runs of B, and a normal interval: what this project does not."""
    calls = 0
    for seed in range(SIMULATIONS):
        random = np.random.default_rng(seed)
        a, b = np.split(10 * slowness(random) * noise(RUNS, random), 2)
        calls += abs(a.mean() - b.mean()) > 1.96 * np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    assert calls / SIMULATIONS >= least


def test_a_load_in_step_with_the_rounds_deceives_a_fixed_order_but_not_a_drawn_one() -> None:
    calls = dict.fromkeys(("fixed", "drawn"), 0)
    for seed in range(200):
        random = np.random.default_rng(seed)
        slowness = (1 + 0.3 * np.sin(2 * np.pi * (INDEX / 8 + random.random()))) * noise(RUNS, random)
        first, second = slowness.reshape(-1, 2)[:40].T
        turned = np.arange(40) // 2 % 2 != np.arange(40) % 2  # ABBA BAAB ABBA ...
        pairs = {"fixed": (np.where(turned, second, first), np.where(turned, first, second))}
        times = Machine(slowness).measure({"a": 10, "b": 10}, 40, seed)
        pairs["drawn"] = (times["a"], times["b"])
        for order, (a, b) in pairs.items():
            calls[order] += excludes_one(paired_ratio(a, b))
    assert calls["fixed"] / 200 > 0.5
    assert calls["drawn"] / 200 <= 0.05


def test_linear_drift_cancels_within_a_block() -> None:
    times = Machine(1 + np.arange(80) / 80).measure({"a": 10.2, "b": 10.0}, 40)
    ratio = paired_ratio(times["a"], times["b"])
    assert ratio == pytest.approx((1.02, 1.02, 1.02), rel=1e-3)


def test_outliers_are_reported_and_do_not_move_the_ratio() -> None:
    random = np.random.default_rng(2)
    times = Machine(spikes(random) * noise(RUNS, random)).measure({"a": 10.0, "b": 11.0}, 100)
    assert verdict(paired_ratio(times["a"], times["b"])) == "faster"
    assert verdict(paired_ratio(times["b"], times["a"])) == "slower"
    assert paired_ratio(times["b"], times["a"]).median == pytest.approx(1.1, abs=0.01)
    assert summarise(times["a"])["p99"] > 15
    assert summarise(times["a"])["max"] == times["a"].max()


def test_resamples_are_the_same_however_many_are_drawn_at_once() -> None:
    for blocks, seed in ((5, 0), (6, 3), (1049, 0), (2500, 1)):
        draws = np.sort(np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks)), axis=1)
        lower, upper = _middle_ranks(blocks, seed)
        assert np.array_equal(lower, draws[:, (blocks - 1) // 2])
        assert np.array_equal(upper, draws[:, blocks // 2])


def test_ten_minutes_of_short_runs_fit_into_memory() -> None:
    times = 10 + np.random.default_rng(0).random(60_000)
    tracemalloc.start()
    try:
        paired_ratio(times, times[::-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # all resamples at once take 480 MB


def test_both_directions_say_the_same() -> None:
    a, b = np.random.default_rng(0).uniform(1, 2, (2, 21))
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.median == pytest.approx(1 / back.median)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low), rel=0.02)
    assert there.low < there.median < there.high
    assert there == paired_ratio(a, b, seed=0)
    assert paired_ratio(a, a) == (1, 1, 1)


def test_what_cannot_be_paired() -> None:
    for a, b in ((20, 19), (8, 8), (0, 0)):
        with pytest.raises(ValueError, match=f"{a} and {b} times"):
            paired_ratio(np.ones(a), np.ones(b))


def test_an_interval_that_holds_one_names_no_winner() -> None:
    assert verdict(Ratio(0.9, 0.8, 1.0)) == "no difference"
    assert verdict(Ratio(1.1, 1.0, 1.2)) == "no difference"
    assert verdict(Ratio(0.9, 0.8, 0.99)) == "faster"
    assert verdict(Ratio(1.1, 1.01, 1.2)) == "slower"


def test_what_tells_equal_sessions_apart_names_no_winner() -> None:
    assert verdict(Ratio(1.005, 1.004, 1.006)) == verdict(Ratio(0.995, 0.994, 0.996)) == "no difference"
    assert verdict(Ratio(1.007, 1.006, 1.008)) == "slower"
    assert verdict(Ratio(0.993, 0.992, 0.994)) == "faster"


def test_percentile_is_trtexecs() -> None:
    # Elements that trtexec's float32 formula leaves out above the reported one, for p and n.
    for p, n, excluded in [(99, 100, 0), (99, 200, 1), (99, 300, 2), (90, 10, 1), (90, 20, 2), (90, 15, 1), (50, 4, 2)]:
        assert percentile(np.arange(n)[::-1], p) == n - 1 - excluded, (p, n)
    assert percentile(np.array([3.0]), 1) == 3.0
    assert percentile(np.arange(10), 0) == 0
    with pytest.raises(ValueError, match="101"):
        percentile(np.arange(3), 101)
    with pytest.raises(ValueError, match="0 times"):
        percentile(np.zeros(0), 50)


def test_summary() -> None:
    got = summarise(np.array([4.0, 1.0, 2.0, 9.0]))
    tails = {"p90": 9, "p95": 9, "p99": 9, "max": 9}
    assert got == pytest.approx({"min": 1, "median": 3, **tails, "mean": 4, "cv": np.sqrt(9.5) / 4, "n": 4})


def test_trend() -> None:
    random = np.random.default_rng(0)
    assert trend(np.ones(8)) is None
    assert trend(np.ones(9)) == (0, False)
    found = trend(10 * heating(random) * noise(RUNS, random))
    assert found is not None
    assert found.change == pytest.approx(0.57, abs=0.03)  # 1 + 5/6 over 1 + 1/6
    assert found.beyond_noise
    flat = [trend(noise(60, np.random.default_rng(seed))) for seed in range(500)]
    assert sum(one.beyond_noise for one in flat if one) <= 10
    rising = trend(np.linspace(1, 2, 15))
    assert rising is not None
    assert rising.beyond_noise
