"""Rows in the form of `bench.form.Measured`, made from times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.numbers import compared, timed

ENVIRONMENT = {
    "system": "Linux",
    "board": None,
    "cpu": "Some CPU",
    "cpu_mhz": None,
    "cores": 2,
    "threads": 1,
    "governor": None,
    "load_average": 0.1,
    "python": "3.12.3",
    "packages": {"numpy": "2.4.6"},
    "gpus": [],
    "commands": {},
}


def measured(times: Mapping[str, Sequence[float]], baseline: str = "none", **changes: Any) -> list[dict[str, Any]]:
    """One row for each contender's times in ms, its statistics and its ratio to the baseline computed from them."""
    batch = changes.get("batch", 1)
    ms = {name: np.array(values) for name, values in times.items()}
    rows = []
    for name, values in times.items():
        row: dict[str, Any] = {"kind": "measured", "suite": "s", "contender": name, "session": "onnxruntime-cpu"}
        row |= {"clock": "host", "built": "apt-edge", "device": "Some CPU", "mode": "single-stream", "batch": batch}
        row |= {"method": "apt", "precision": "float32", "tokens": 100}
        row |= {"baseline": baseline, **timed(ms[name], batch), **compared(ms, name, baseline)}
        row |= {"gmacs": 1.5, "gmacs_ratio": 1.0, "trainable_parameters": 1234, "accuracy": None, "agreement": None}
        row |= {"memory": None, "energy": None, "stages": None, "point": None, "clips": "list.csv"}
        row |= {"model_sha256": "ab" * 32, "pack_sha256": None, "environment": ENVIRONMENT, "times_ms": list(values)}
        rows.append(row | changes)
    return rows


def noisy(base_ms: float, rounds: int = 40, seed: int = 0, drift: float = 0.0) -> list[float]:
    """Times around a base with 1 % of noise, and a machine that gets slower by `drift` over the run."""
    random = np.random.default_rng(seed)
    slower = 1 + drift * np.linspace(0, 1, rounds)
    return [float(ms) for ms in base_ms * slower * (1 + 0.01 * random.normal(size=rounds))]
