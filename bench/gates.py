"""What a suite promises beside its numbers: equal weights give equal outputs, and latency follows the GMACs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from apt_edge.errors import GateError
from apt_edge.runtime.agreement import agreement
from bench.clips import batches
from bench.contenders import Opened
from bench.measure import Frames
from bench.numbers import interval
from bench.suite import Suite


def agreements(baseline: str, opened: Sequence[Opened], frames: Frames) -> dict[str, dict[str, Any] | None]:
    """How far the logits of each contender are from the baseline's on the run's clips, under its key.

    Where the weights are others than the baseline's, from those of the first contender that has them: `against` says
    whose. None for a contender whose weights no other one has.
    """
    shared = Counter(one.weights for one in opened)
    references: dict[str, Opened] = {}
    for one in sorted(opened, key=lambda one: one.contender.name != baseline):  # stable: the baseline before all
        references.setdefault(one.weights, one)
    logits = {one.key: _logits(one, frames[one.clip]) for one in opened if shared[one.weights] > 1}
    return {
        one.key: agreement(logits[references[one.weights].key], logits[one.key])
        | {"against": references[one.weights].contender.name}
        if one.key in logits
        else None
        for one in opened
    }


def _logits(one: Opened, frames_MTSSC: np.ndarray) -> np.ndarray:
    found = np.concatenate([one.run(batch) for batch in batches(frames_MTSSC, one.batch)])
    return found[: len(frames_MTSSC)]


def check_gates(suite: Suite, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises GateError when equal weights disagree, or a ratio leaves the suite's tolerance around its GMAC ratio.

    A ratio whose interval reaches further to either side than that tolerance proves nothing, and fails as well.
    """
    _check_gmacs(suite.gmacs_tolerance, rows)
    _check_logits(suite.logit_tolerance, rows)


def _check_gmacs(tolerance: float | None, rows: Sequence[Mapping[str, Any]]) -> None:
    if tolerance is None:
        return
    beyond = [row for row in rows if abs(row["latency_ratio"] / row["gmacs_ratio"] - 1) > tolerance]
    vague = [row for row in rows if row not in beyond and _half_width(row) > tolerance]
    if beyond or vague:
        wrong = "latency does not follow the GMACs" if beyond else "cannot tell whether latency follows the GMACs"
        raise GateError(
            f"{wrong} within {tolerance:.0%}",
            found="; ".join(
                f"{row['contender']}: latency ratio {interval(row)}, GMAC ratio {row['gmacs_ratio']:.3f}"
                + ("" if row in beyond else ", cannot tell: its interval reaches further than that")
                for row in (*beyond, *vague)
            ),
            fix="repeat on a quiet machine with more rounds; if it stays, look for operators that do not fuse",
        )


def _half_width(row: Mapping[str, Any]) -> float:
    """Of the interval, as a fraction of the ratio; infinite where the two were not measured in turns."""
    if row["latency_ratio_low"] is None:
        return inf
    return (row["latency_ratio_high"] - row["latency_ratio_low"]) / 2 / row["latency_ratio"]


def _check_logits(tolerance: float | None, rows: Sequence[Mapping[str, Any]]) -> None:
    if tolerance is None:
        return
    beyond = [
        f"{row['contender']}: {row['agreement']['max_abs']} from {row['agreement']['against']}"
        for row in rows
        if row["agreement"] and not _within(row["agreement"]["max_abs"], tolerance)
    ]
    if beyond:
        raise GateError(
            f"logits of the same weights differ by more than {tolerance:g}",
            found="; ".join(beyond),
            fix="a speed at other outputs says nothing: leave out the contender that is wrong",
        )


def _within(found: float | None, tolerance: float) -> bool:
    return found is not None and found <= tolerance  # None: not finite
