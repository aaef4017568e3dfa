"""The results of a benchmark on disk, and the columns that tables show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError
from apt_edge.tables import MISSING, Column, Row, number

ROWS, SUMMARY = "rows.json", "summary.json"


def read_rows(path: Path, fix: str = "run bench.run first") -> list[Row]:
    """Read a JSON list of rows; raises ConfigError when it is missing or something else."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there are no results at {path}", fix=fix) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable", found=str(error), fix=fix) from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path} is not a list of rows", fix=fix)
    return rows


def interval(row: Mapping[str, Any]) -> str:
    """`1.102 [1.095, 1.110]`: the latency ratio with its 95 % interval; `1` for the baseline."""
    if row.get("latency_ratio") is None:
        return MISSING
    if row["latency_ratio_low"] == row["latency_ratio_high"] == 1:
        return "1"
    return f"{row['latency_ratio']:.3f} [{row['latency_ratio_low']:.3f}, {row['latency_ratio_high']:.3f}]"


def _drift(row: Mapping[str, Any], key: str, spec: str) -> str:
    """One number of how far the logits are from the baseline's; missing where the weights are others."""
    drift = row.get("drift")
    return MISSING if drift is None or drift[key] is None or row["verdict"] == "baseline" else format(drift[key], spec)


BENCH_COLUMNS: dict[str, Column] = {
    "contender": lambda row: str(row["contender"]),
    "session": lambda row: str(row["session"]),
    "trainable": number("trainable_parameters", ","),
    "GMACs": number("gmacs", ".4g"),
    "median ms": number("latency_ms_median", ".4g"),
    "p90 ms": number("latency_ms_p90", ".4g"),
    "p99 ms": number("latency_ms_p99", ".4g"),
    "CV": number("latency_cv", ".1%"),
    "latency ratio [95 %]": interval,
    "GMAC ratio": number("gmacs_ratio", ".3f"),
    "verdict": lambda row: str(row["verdict"]),
    "accuracy": number("accuracy", ".1%"),
    "max dlogit": lambda row: _drift(row, "max_abs", ".1e"),
    "first label equal": lambda row: _drift(row, "top1_agreement", ".1%"),
}

SUMMARY_COLUMNS: dict[str, Column] = {
    "method": lambda row: str(row["method"]),
    "accuracy": number("accuracy", ".1%"),
    "frames shuffled": number("accuracy_shuffled", ".1%"),
    "trainable": number("trainable_parameters", ","),
    "GMACs": number("gmacs", ".4g"),
    "median ms": number("latency_ms_median", ".4g"),
    "latency ratio [95 %]": interval,
    "fused attention": lambda row: f"{row['fused_attention']}/{row['attention']}",
    "parity FP32": number("parity_max_abs", ".1e"),
    "parity FP16": number("parity_max_abs_float16", ".1e"),
}
