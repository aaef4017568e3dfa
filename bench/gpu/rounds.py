"""As many timed rounds as a budget allows, and what rows say of them; without PyTorch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from apt_edge.errors import AptEdgeError
from apt_edge.runtime.timing import Clock, Run, measure_interleaved, warm_up
from bench.numbers import compared, drifted, timed

LEAST_ROUNDS = 10
WARM_SECONDS = 1.0  # before timed rounds: clocks rise within that
RESERVE = 0.2  # of a budget, for a machine that slows down while it measures


def measure(contenders: Mapping[str, Run], rounds: int, seconds: float, clock: Clock) -> dict[str, np.ndarray]:
    """Times of all contenders in turns, in ms: `rounds` rounds, or as many as fit into `seconds`.

    Raises:
        AptEdgeError: not even ten rounds fit.
    """
    end = time.monotonic() + (1 - RESERVE) * seconds
    warm_up(contenders, 1, 1, clock)
    begin = time.monotonic()
    warm_up(contenders, 2, 2, clock)
    a_round = (time.monotonic() - begin) / 2
    left = int((end - time.monotonic()) / a_round)
    warmup = min(int(WARM_SECONDS / a_round), left // 10)  # three times as many run where times are not steady
    fitting = min(rounds, left - 3 * warmup) // 2 * 2  # both orders equally often
    if fitting < LEAST_ROUNDS:
        raise AptEdgeError(
            f"fewer than {LEAST_ROUNDS} rounds fit into the budget",
            found=f"{a_round:.2f} s a round of {len(contenders)} contenders, {seconds:.0f} s",
            fix="measure fewer --sizes, --batches or --tokens at once",
        )
    warm_up(contenders, warmup, 3 * warmup, clock)
    return measure_interleaved(contenders, fitting, 0, clock)


def statistics(times: Mapping[str, np.ndarray], name: str, baseline: str, batch: int) -> dict[str, Any]:
    """The numbers of a row; element i of `times_ms` of all rows that were measured together belongs to round i."""
    own = {"baseline": baseline, **compared(times, name, baseline), "warnings": drifted(times[name])}
    return timed(times[name], batch) | own
