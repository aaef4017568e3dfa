"""The columns of the latency tables: few for a README, all for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apt_edge.tables import MISSING, Column, Row, number
from bench.rows import BENCH_COLUMNS


def label(row: Mapping[str, Any]) -> str:
    """What a row is called: its `label` where several rows share a contender, else the contender."""
    return str(row.get("label", row["contender"]))


def labelled(rows: Sequence[Row]) -> list[Row]:
    """The rows with a `label` each: the contender, and its batch where its suite has several."""
    names = [(row["suite"], row["contender"]) for row in rows]
    return [
        {**row, "label": f"{row['contender']}, batch {row['batch']}" if names.count(name) > 1 else row["contender"]}
        for row, name in zip(rows, names, strict=True)
    ]


def _within(outer: str, inner: str, form: str) -> Column:
    return lambda row: MISSING if (row.get(outer) or {}).get(inner) is None else format(row[outer][inner], form)


def _p90(row: Mapping[str, Any]) -> str:
    """Where it is the metric: MLPerf's single stream is judged by it."""
    return format(row["latency_ms_p90"], ".4g") if row.get("mode") == "mlperf" else MISSING


SHORT_COLUMNS: dict[str, Column] = {
    "contender": label,
    **{title: BENCH_COLUMNS[title] for title in ("session", "GMACs", "median ms")},
    "p90 ms": _p90,
    **{title: BENCH_COLUMNS[title] for title in ("p99 ms", "latency ratio [95 %]", "GMAC ratio", "verdict")},
    **{title: BENCH_COLUMNS[title] for title in ("accuracy", "max dlogit", "first label equal")},
}
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
