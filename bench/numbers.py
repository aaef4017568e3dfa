"""The numbers of a benchmark's row: what its times say, how they compare with a baseline's, and whose weights they are.

Whoever writes a row uses these, and so does whoever checks one. Needs numpy alone: a GPU's machine may have no more.
Times are milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from apt_edge.runtime.statistics import RESOLUTION, Ratio, paired_ratio, summarise, trend, verdict
from apt_edge.tables import MISSING

if TYPE_CHECKING:
    from torch import nn

NOT_PAIRED = "not paired"
ITSELF = Ratio(1.0, 1.0, 1.0)  # the baseline over the baseline
DIGITS = 6  # of a time on disk: nanoseconds


def timed(times: np.ndarray, batch: int) -> dict[str, Any]:
    """What a row says of its own times.

    Args:
        times: of every run, in their order.
        batch: clips a run.
    """
    statistics, change = summarise(times), trend(times)
    return {
        **{f"latency_ms_{key}": statistics[key] for key in ("median", "p90", "p95", "p99", "max", "mean")},
        "latency_ms_per_clip": statistics["median"] / batch,
        "latency_cv": statistics["cv"],
        "latency_trend": None if change is None else change.change,
        "rounds": len(times),
        "times_ms": [round(float(ms), DIGITS) for ms in times],
    }


def drifted(times: np.ndarray) -> list[str]:
    """A warning when times went up or down beyond noise, and by more than two equal sessions may differ."""
    change = trend(times)
    if change is None or not change.beyond_noise or abs(change.change) <= RESOLUTION:
        return []
    return [
        f"times changed by {change.change:+.1%} from the first third of the run to the last, beyond noise: "
        "the machine was not steady"
    ]


def compared(times: Mapping[str, np.ndarray], name: str, baseline: str, paired: bool = True) -> dict[str, Any]:
    """What a row says of its times against the baseline's.

    Args:
        times: by contender; if `paired`, element i of both belongs to round i.
        name, baseline: of the two.
        paired: measured in turns; else there is no interval and no verdict.
    """
    own, other = times[name], times[baseline]
    if name == baseline:
        ratio, named = ITSELF, "baseline"
    elif paired:
        ratio = paired_ratio(own, other)
        named = verdict(ratio)
    else:
        return {
            "latency_ratio": float(np.median(own) / np.median(other)),
            "latency_ratio_low": None,
            "latency_ratio_high": None,
            "verdict": NOT_PAIRED,
        }
    return {
        "latency_ratio": ratio.median,
        "latency_ratio_low": ratio.low,
        "latency_ratio_high": ratio.high,
        "verdict": named,
    }


def interval(row: Mapping[str, Any]) -> str:
    """`1.102 [1.095, 1.110]`: the latency ratio with its 95 % interval; `1` for the baseline."""
    if row.get("latency_ratio") is None:
        return MISSING
    if row["latency_ratio_low"] is None:
        return f"{row['latency_ratio']:.3f} [{NOT_PAIRED}]"
    if row["latency_ratio_low"] == row["latency_ratio_high"] == 1:
        return "1"
    return f"{row['latency_ratio']:.3f} [{row['latency_ratio_low']:.3f}, {row['latency_ratio_high']:.3f}]"


def weights_sha256(module: nn.Module) -> str:
    """sha256 over names, shapes and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
