"""The timing core on a simulated machine whose drift, noise and spikes are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from apt_edge.runtime.timing import Ratio, measure_interleaved, paired_ratio, percentile, summarise, verdict


class Machine:
    """A clock that only work moves; work takes its cost times drift, log-normal noise and rare spikes."""

    def __init__(self, seed: int, drift: Callable[[float], float], noise: float = 0.02, spikes: float = 0.0) -> None:
        self.now, self.random = 0, np.random.default_rng(seed)
        self.drift, self.noise, self.spikes = drift, noise, spikes
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.now

    def contender(self, name: str, ms: float) -> Callable[[], None]:
        def work() -> None:
            self.calls.append(name)
            spent = ms * self.drift(self.now / 1e9) * np.exp(self.noise * self.random.standard_normal())
            if self.random.random() < self.spikes:
                spent *= self.random.uniform(2, 10)
            self.now += int(spent * 1e6)

        return work

    def measure(self, costs: dict[str, float], rounds: int, warmup: int = 0) -> dict[str, np.ndarray]:
        return measure_interleaved(
            {name: self.contender(name, ms) for name, ms in costs.items()}, rounds, warmup, self.clock
        )


def steady(_seconds: float) -> float:
    return 1.0


def heating(seconds: float) -> float:
    return 1.0 + seconds


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
    assert got == pytest.approx({"median": 3, "p90": 9, "p99": 9, "mean": 4, "cv": np.sqrt(9.5) / 4, "n": 4})


def test_order_is_reversed_every_other_round_and_rotates() -> None:
    machine = Machine(0, steady)
    machine.measure({"a": 1, "b": 1, "c": 1}, rounds=6)
    assert "".join(machine.calls) == "abccbabcaacbcabbac"
    machine = Machine(0, steady)
    done: list[int] = []
    contenders = {"a": machine.contender("a", 1), "b": machine.contender("b", 1)}
    measure_interleaved(contenders, 4, 3, machine.clock, done.append)
    assert "".join(machine.calls) == "abbabaabbabaab"
    assert done == [1, 2, 3, 4]


def test_warmup_is_not_recorded_and_times_are_milliseconds() -> None:
    machine = Machine(0, lambda seconds: 100.0 if seconds < 0.5 else 1.0, noise=0)
    times = machine.measure({"a": 5.0, "b": 7.0}, rounds=4, warmup=1)
    assert times["a"].tolist() == [5.0] * 4
    assert times["b"].tolist() == [7.0] * 4


def test_drift_misleads_naive_means_but_not_paired_ratios() -> None:
    naive = Machine(1, heating)
    first = naive.measure({"a": 10.2}, 40)["a"]
    second = naive.measure({"b": 10.0}, 40)["b"]
    assert first.mean() / second.mean() < 0.8  # calls the slower one faster
    times = Machine(1, heating).measure({"a": 10.2, "b": 10.0}, 40)
    ratio = paired_ratio(times["a"], times["b"])
    assert ratio.median == pytest.approx(1.02, abs=0.01)
    assert ratio.low <= ratio.median <= ratio.high


def test_a_real_difference_is_found_both_ways_through_spikes() -> None:
    times = Machine(2, steady, spikes=0.1).measure({"a": 10.0, "b": 11.0}, 60)
    assert verdict(paired_ratio(times["a"], times["b"])) == "faster"
    assert verdict(paired_ratio(times["b"], times["a"])) == "slower"
    assert paired_ratio(times["b"], times["a"]).median == pytest.approx(1.1, abs=0.01)
    assert summarise(times["a"])["p99"] > 15  # the spikes are reported, not clipped


@pytest.mark.parametrize("drift", [steady, heating, lambda seconds: 1 + 0.3 * np.sin(20 * seconds)])
def test_identical_contenders_seldom_differ(drift: Callable[[float], float]) -> None:
    calls = 0
    for seed in range(200):
        times = Machine(seed, drift, spikes=0.03).measure({"a": 10, "b": 10}, 30, 2)
        calls += verdict(paired_ratio(times["a"], times["b"])) != "no difference"
    assert calls / 200 <= 0.07


def test_an_interval_that_holds_one_names_no_winner() -> None:
    assert verdict(Ratio(0.9, 0.8, 1.0)) == "no difference"
    assert verdict(Ratio(1.1, 1.0, 1.2)) == "no difference"
    assert verdict(Ratio(0.9, 0.8, 0.99)) == "faster"
    assert verdict(Ratio(1.1, 1.01, 1.2)) == "slower"


def test_the_interval_is_reproducible_and_needs_pairs() -> None:
    a, b = np.random.default_rng(0).uniform(1, 2, (2, 20))
    assert paired_ratio(a, b) == paired_ratio(a, b, seed=0) != paired_ratio(a, b, seed=1)
    with pytest.raises(ValueError, match="paired"):
        paired_ratio(a, b[:-1])
    with pytest.raises(ValueError, match="rounds"):
        measure_interleaved({}, 1, 0)
