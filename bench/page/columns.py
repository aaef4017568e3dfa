"""The columns of the latency tables: few for a README, all for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_edge.tables import MISSING, Column, number
from bench.rows import BENCH_COLUMNS


def label(row: Mapping[str, Any]) -> str:
    """What a row is called: its `label` where several rows share a contender, else the contender."""
    return str(row.get("label", row["contender"]))


def _within(outer: str, inner: str, form: str) -> Column:
    return lambda row: MISSING if (row.get(outer) or {}).get(inner) is None else format(row[outer][inner], form)


SHORT = ("session", "GMACs", "median ms", "p99 ms", "latency ratio [95 %]", "GMAC ratio", "verdict", "accuracy")
AGREEMENT = ("max dlogit", "first label equal")
SHORT_COLUMNS: dict[str, Column] = {"contender": label, **{key: BENCH_COLUMNS[key] for key in (*SHORT, *AGREEMENT)}}
FULL_COLUMNS: dict[str, Column] = {
    "contender": label,
    **{key: column for key, column in BENCH_COLUMNS.items() if key != "contender"},
    "p95 ms": number("latency_ms_p95", ".4g"),
    "max ms": number("latency_ms_max", ".4g"),
    "ms a clip": number("latency_ms_per_clip", ".4g"),
    "trend": number("latency_trend", "+.1%"),
    "resident MB": _within("memory", "rss_mb", ".4g"),
    "activation MB": _within("memory", "activation_mb", ".4g"),
    "GPU MB": _within("memory", "gpu_mb", ".4g"),
    "J a clip": _within("energy", "joules_per_clip", ".3g"),
    "end to end ms": _within("stages", "end_to_end_ms", ".4g"),
}
