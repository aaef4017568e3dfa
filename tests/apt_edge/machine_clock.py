"""A machine whose speed, noise and spikes are known, and a clock that only its work moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from apt_edge.runtime.timing import measure_interleaved


class Machine:
    """Run number i takes its contender's cost times `slowness[i]`; the list begins again at its end."""

    def __init__(self, slowness: Sequence[float] | np.ndarray = (1.0,)) -> None:
        self.slowness = [float(factor) for factor in slowness]
        self.now, self.runs = 0.0, 0
        self.calls: list[str] = []

    def clock(self, run: Callable[[], None]) -> float:
        begin = self.now
        run()
        return self.now - begin

    def contender(self, name: str, ms: float) -> Callable[[], None]:
        def work() -> None:
            self.calls.append(name)
            self.now += ms * self.slowness[self.runs % len(self.slowness)]
            self.runs += 1

        return work

    def measure(self, costs: dict[str, float], rounds: int, seed: int = 0) -> dict[str, np.ndarray]:
        contenders = {name: self.contender(name, ms) for name, ms in costs.items()}
        return measure_interleaved(contenders, rounds, 0, self.clock, seed=seed)


def noise(runs: int, random: np.random.Generator, spread: float = 0.02) -> np.ndarray:
    """Log-normal factors around 1."""
    return np.exp(spread * random.standard_normal(runs))
