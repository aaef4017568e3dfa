"""Latency of callables, taken so that drift of the machine cannot name a winner. Needs numpy alone.

All times are milliseconds. Contenders run interleaved, in one process, and are compared round by round: what slows the
machine for a minute slows every contender of those rounds. `apt_edge.runtime.statistics` compares.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np

LEAST_RUNS = 1024
LEAST_WARM_RUNS = 10  # as trtexec
STEADY = 0.05
LEAST_STEADY = 6  # rounds: two halves of three, of which one may be an outlier

Run = Callable[[], None]
# Does a run and says how many ms it took. A device's clock records an event, runs, records another, waits, subtracts.
Clock = Callable[[Run], float]


def wall_clock(run: Run) -> float:
    """Milliseconds of one run on the monotonic clock of the host."""
    begin = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begin) / 1e6


def measure_interleaved(
    contenders: Mapping[str, Run],
    rounds: int,
    warmup: int,
    clock: Clock = wall_clock,
    progress: Callable[[int], object] | None = None,
    seed: int | None = None,
) -> dict[str, np.ndarray]:
    """Time every contender once a round, after `warm_up`.

    The order of every second round is drawn at random, and the next one is its mirror image (ABBA): linear drift
    favours nobody, and neither does a load that comes and goes in step with the rounds, as it would with a fixed order.

    Args:
        contenders: name to a callable that returns when its work is done; a device's callable waits for the device.
        rounds: timed runs of each contender.
        warmup: least number of rounds that run before and are not recorded; 0 for none.
        clock: does each run and takes its time.
        progress: called after each timed round with the number of rounds done.
        seed: of the order; another one in every measurement when None.

    Returns:
        For each contender its times in ms, one a round: element i of two contenders belongs to the same round.

    Raises:
        ValueError: no contender, fewer than one round, or a negative warm-up.
    """
    if not contenders or rounds < 1 or warmup < 0:
        raise ValueError(f"{len(contenders)} contenders, {rounds} rounds, {warmup} warm-up rounds")
    warm_up(contenders, warmup, clock=clock)
    random = np.random.default_rng(seed)
    names, order = list(contenders), list(contenders)
    times = {name: np.zeros(rounds) for name in names}
    for index in range(rounds):
        order = order[::-1] if index % 2 else [names[place] for place in random.permutation(len(names))]
        for name in order:
            times[name][index] = clock(contenders[name])
        if progress is not None:
            progress(index + 1)
    return times


def warm_up(contenders: Mapping[str, Run], least: int, most: int | None = None, clock: Clock = wall_clock) -> int:
    """Run every contender once a round until its times are steady.

    Steady: of the last `least` rounds, or the last six if that is more, the medians of the two halves differ by 5 % or
    less, for every contender. Looked at after every sixth part of these rounds.

    Args:
        contenders: as for `measure_interleaved`.
        least, most: bounds of the number of rounds; when `most` is None three times `least`, or twelve if that is more,
            and none for a `least` of 0. On a machine that never becomes steady `most` rounds run; `statistics.trend`
            says what was left of it.
        clock: does each run and takes its time.

    Returns:
        How many rounds were run.
    """
    window = max(least, LEAST_STEADY)
    if most is None:
        most = max(3 * least, 2 * LEAST_STEADY) if least else 0
    times: dict[str, list[float]] = {name: [] for name in contenders}
    done = 0
    step = window // LEAST_STEADY  # medians of a million rounds after each of a million rounds would never end

    def steady() -> bool:
        return (done - least) % step == 0 and all(_steady(spent, window) for spent in times.values())

    while done < least or (done < most and not steady()):
        for name, run in contenders.items():
            times[name].append(clock(run))
        done += 1
    return done


def _steady(times: list[float], window: int) -> bool:
    last = times[-window:]
    middle = window // 2
    return len(last) == window and abs(np.median(last[middle:]) / np.median(last[:middle]) - 1) <= STEADY


def measure_for(
    run: Run,
    seconds: float,
    least_runs: int = LEAST_RUNS,
    clock: Clock = wall_clock,
    progress: Callable[[float], object] | None = None,
) -> np.ndarray:
    """Time one contender alone, back to back, as MLPerf's single stream does; its metric is the 90th percentile.

    mlcommons/inference_policies, inference_rules.adoc: 1,024 queries or more, one after the other, for 600 s or more.

    Args:
        run: returns when its work is done.
        seconds: the runs take at least so long together.
        least_runs: and are at least so many.
        clock: does each run and takes its time.
        progress: called after each run with the seconds that it took.

    Returns:
        All times in ms, in their order.
    """
    times: list[float] = []
    left = 1e3 * seconds
    while left > 0 or len(times) < least_runs:
        times.append(clock(run))
        left -= times[-1]
        if progress is not None:
            progress(times[-1] / 1e3)
    return np.array(times)


def measure_warm(run: Run, seconds: float, warm_up_ms: float, clock: Clock = wall_clock) -> np.ndarray:
    """Time one contender alone as trtexec does: for `seconds` and ten runs at least, after a warm-up.

    Args:
        run: returns when its work is done.
        seconds: the timed runs take at least so long together.
        warm_up_ms: runs before them take at least about so long, and go on until they are steady (`warm_up`).
        clock: does each run and takes its time.

    Returns:
        All times in ms, in their order.
    """
    clock(run)
    typical = max(float(np.median([clock(run) for _ in range(3)])), 1e-6)
    warm_up({"model": run}, math.ceil(warm_up_ms / typical), clock=clock)
    return measure_for(run, seconds, LEAST_WARM_RUNS, clock)
