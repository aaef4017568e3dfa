"""The timing core on a simulated machine, and once on the real clock."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from apt_edge.runtime import timing
from apt_edge.runtime.timing import measure_for, measure_interleaved, wall_clock, warm_up
from tests.apt_edge.machine_clock import Machine, noise


def test_every_second_round_is_drawn_and_the_next_one_is_its_mirror_image() -> None:
    machine = Machine()
    done: list[int] = []
    contenders = {name: machine.contender(name, 1) for name in "abc"}
    measure_interleaved(contenders, 600, 0, machine.clock, done.append)
    assert done == list(range(1, 601))
    rounds = ["".join(machine.calls[start : start + 3]) for start in range(0, 1800, 3)]
    assert all(there == back[::-1] for there, back in zip(rounds[::2], rounds[1::2], strict=True))
    orders = Counter(rounds[::2])
    assert len(orders) == 6
    assert min(orders.values()) >= 20  # 50 each on average
    first = [order.index("a") < order.index("b") for order in rounds[::2]]
    assert 100 <= sum(first) <= 200


def test_a_seed_repeats_the_order() -> None:
    calls = []
    for seed in (1, 1, 2):
        machine = Machine()
        machine.measure(dict.fromkeys("abc", 1.0), 20, seed)
        calls.append(machine.calls)
    assert calls[0] == calls[1] != calls[2]


def test_times_belong_to_their_contender_and_warm_up_is_not_recorded() -> None:
    machine = Machine([100.0] * 12 + [1.0] * 8)
    contenders = {"a": machine.contender("a", 5), "b": machine.contender("b", 7)}
    times = measure_interleaved(contenders, 4, 3, machine.clock)
    assert machine.runs == 20
    assert times["a"].tolist() == [5.0] * 4
    assert times["b"].tolist() == [7.0] * 4


def test_warm_up_ends_when_times_are_steady_or_at_its_bound() -> None:
    def rounds(slowness: np.ndarray, least: int, most: int | None = None) -> int:
        machine = Machine(np.repeat(slowness, 2))
        ran = warm_up({"a": machine.contender("a", 5), "b": machine.contender("b", 7)}, least, most, machine.clock)
        assert machine.runs == 2 * ran
        return ran

    random = np.random.default_rng(0)
    steady = noise(200, random)
    waking = 1 + np.exp(-np.arange(200) / 4)  # twice as slow at first
    never = 1.1 ** np.arange(200)
    assert [rounds(steady, least) for least in (0, 1, 2, 10, 40)] == [0, 6, 6, 10, 40]
    assert 10 < rounds(waking, 10, 100) < 30
    assert [rounds(never, least) for least in (0, 1, 2, 4, 10)] == [0, 12, 12, 12, 30]
    assert [rounds(never, least, most) for least, most in ((10, 50), (2, 2), (1, 3))] == [50, 2, 3]


def test_one_outlier_of_a_short_warm_up_neither_ends_nor_prolongs_it() -> None:
    slow = np.ones(20)
    slow[1] = 1.5  # two runs told nothing: one of them against the other
    machine = Machine(slow)
    assert warm_up({"a": machine.contender("a", 5)}, 2, clock=machine.clock) == 6
    machine = Machine(np.array([3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]))  # asleep for two runs
    assert warm_up({"a": machine.contender("a", 5)}, 2, clock=machine.clock) == 7


def test_single_stream_runs_for_so_long_and_so_often() -> None:
    machine = Machine([1.0, 3.0])
    seconds: list[float] = []
    times = measure_for(machine.contender("a", 10), 0.1, least_runs=4, clock=machine.clock, progress=seconds.append)
    assert times.tolist() == [10, 30, 10, 30, 10, 30]
    assert sum(seconds) == pytest.approx(0.12)
    assert len(measure_for(machine.contender("a", 10), 0.1, clock=machine.clock)) == 1024


def test_the_clock_of_the_host_tells_milliseconds() -> None:
    assert wall_clock(lambda: time.sleep(0.02)) >= 20
    times = measure_interleaved({"a": lambda: time.sleep(0.002), "b": lambda: None}, 3, 1)
    assert times["a"].min() >= 2


def test_what_cannot_be_measured() -> None:
    for contenders, rounds, warmup in (({}, 1, 0), ({"a": int}, 0, 0), ({"a": int}, 1, -1)):
        with pytest.raises(ValueError, match="rounds"):
            measure_interleaved(contenders, rounds, warmup)


def test_a_long_warm_up_that_never_steadies_looks_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(timing, "_steady", lambda times, window: looks.append(len(times)) or False)
    assert timing.warm_up({"a": lambda: None}, 600) == 1800
    assert looks == list(range(600, 1800, 100))
