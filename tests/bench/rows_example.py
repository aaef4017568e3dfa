"""Rows as `bench.form.Measured` wants them, with statistics that follow from times drawn with a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from apt_edge.tables import Row
from bench.flops import cost_row, size_by_name
from bench.numbers import compared, timed

ENVIRONMENT: dict[str, Any] = {
    "cpu": "Some CPU",
    "cpu_mhz": 2400.0,
    "cores": 4,
    "threads": 1,
    "governor": "performance",
    "load_average": 0.1,
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.31.1"},
    "gpus": [],
    "commands": {},
}
EQUAL = {"max_abs": 1e-6, "mean_abs": 1e-7, "kl": 0.0, "top1_agreement": 1.0, "max_logit": 1.0, "clips": 8}


def suite_rows(*contenders: Row, suite: str = "example", rounds: int = 20, seed: int = 0, **changes: Any) -> list[Row]:
    """One row a contender, the first is the baseline.

    Args:
        contenders: each with `contender` and `ms`, the median to draw times around, and with what it changes.
        changes: of all rows.
    """
    random = np.random.default_rng(seed)
    drift = 1 + 0.01 * random.standard_normal(rounds)  # of the machine: all contenders of a round share it
    times = [np.round(row["ms"] * drift * (1 + 0.01 * np.abs(random.standard_normal(rounds))), 6) for row in contenders]
    base = {"gmacs": 1.5, "batch": 1, **changes, **contenders[0]}
    return [_row(row, own, times[0], base, suite=suite, **changes) for row, own in zip(contenders, times, strict=True)]


def _row(given: Row, times: np.ndarray, base_times: np.ndarray, base: Row, **changes: Any) -> Row:
    names = {given["contender"]: times, base["contender"]: base_times}
    row: Row = {
        "kind": "measured",
        "session": "onnxruntime-cpu",
        "clock": "host",
        "built": "apt-edge",
        "device": "Some CPU",
        "mode": "single-stream",
        "batch": 1,
        "method": "apt",
        "precision": "float32",
        "tokens": None,
        "baseline": base["contender"],
        **compared(names, given["contender"], base["contender"]),
        "gmacs": 1.5,
        **dict.fromkeys(("trainable_parameters", "accuracy", "agreement", "memory", "energy", "stages", "point")),
        "clips": "videos.csv",
        "model_sha256": "ab" * 32,
        "pack_sha256": None,
        "environment": ENVIRONMENT,
        **changes,
        **{key: value for key, value in given.items() if key != "ms"},
    }
    known = row["gmacs"] is not None and base["gmacs"] is not None
    return row | timed(times, row["batch"]) | {"gmacs_ratio": row["gmacs"] / base["gmacs"] if known else None}


def prompt_rows(counts: tuple[int, ...] = (100, 400), classes: int = 174, **changes: Any) -> list[Row]:
    """ViT-S without prompts, as APT, as VPT folded and as VPT with tokens; time follows the GMACs at 20 ms each."""
    config = size_by_name("vit-small")
    cost = cost_row("linear", config, {}, classes)
    contenders = [_prompted("none", "linear", 0, cost, "gmacs_deployed")]
    for count in counts:
        apt, vpt = (cost_row(name, config, {"tokens": count}, classes) for name in ("apt", "vpt-deep"))
        contenders += [
            _prompted(f"APT-{count}", "apt", count, apt, "gmacs_deployed"),
            _prompted(f"VPT-{count} folded", "vpt-deep", count, vpt, "gmacs_deployed"),
            _prompted(f"VPT-{count} as tokens", "vpt-deep", count, vpt, "gmacs_published"),
        ]
    return suite_rows(*contenders, **changes)


def _prompted(name: str, method: str, tokens: int, cost: Row, gmacs: str) -> Row:
    own = {"contender": name, "method": method, "tokens": tokens, "trainable_parameters": cost["trainable_parameters"]}
    return own | {"gmacs": cost[gmacs], "ms": 20 * cost[gmacs]}
