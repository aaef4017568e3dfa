"""The results of a benchmark on disk: reading and checking them, and the columns that tables show.

`rows.json` of a run directory is a list of rows, each as `bench.form.Measured` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from apt_edge.errors import ConfigError
from apt_edge.runtime.statistics import LEAST_PAIRED, paired_ratio, percentile
from apt_edge.tables import MISSING, Column, Row, number
from bench.form import NOT_PAIRED, Measured

ROWS, SUMMARY = "rows.json", "summary.json"
RELATIVE, ABSOLUTE_MS = 1e-4, 1e-5  # room for the digits that times lose on disk
COMPLAINTS = 5  # of a message


def read_list(path: Path, fix: str = "run bench.run first") -> list[Row]:
    """Read a JSON list of objects, whatever their keys; raises ConfigError when it is missing or something else."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there are no results at {path}", fix=fix) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable", found=str(error), fix=fix) from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path} is not a list of rows", fix=fix)
    return rows


def read_rows(path: Path, fix: str = "run bench.run first") -> list[Row]:
    """Read and check the rows of a benchmark; raises ConfigError, see `check_rows`."""
    rows = read_list(path, fix)
    check_rows(rows, path)
    return rows


def check_rows(rows: Sequence[Row], where: str | Path) -> None:
    """Raises ConfigError naming row and key when rows are not as `Measured` says or contradict themselves.

    Statistics must follow from `times_ms`, a verdict from its interval, a ratio from the times of the two rows.

    Args:
        rows: of one `rows.json`.
        where: the file, for the message.
    """
    complaints = [f"row {i} {text}" for i, row in enumerate(rows) for text in _form(row)]
    if not complaints:
        for i, row in enumerate(rows):
            name = f"row {i} ({row['contender']})"
            complaints += [f"{name}: {text}" for text in (*_statistics(row), *_ratio(row, rows))]
    if complaints:
        more = [f"and {len(complaints) - COMPLAINTS} more"] if len(complaints) > COMPLAINTS else []
        raise ConfigError(
            f"{where} holds rows that cannot be trusted",
            found="; ".join([*complaints[:COMPLAINTS], *more]),
            fix="measure again (bench.run, bench.ingest); a row is never edited by hand; bench/form.py has its form",
        )


def _form(row: Mapping[str, Any]) -> Iterator[str]:
    name = f"({row.get('contender', 'without a name')})"
    try:
        Measured.model_validate(row)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            wrong = "is missing" if item["type"] == "missing" else f"{item['msg']}, not {str(item['input'])[:60]!r}"
            yield f"{name}: {key} {wrong}"
        return
    facts = row["environment"]
    if not (facts["cpu"] or facts["gpus"] or facts.get("board")):
        yield f"{name}: environment: names neither a cpu nor a board nor a gpu"


def _statistics(row: Row) -> Iterator[str]:
    times = np.array(row["times_ms"])
    median = float(np.median(times))
    expected = {
        "latency_ms_median": median,
        **{f"latency_ms_p{p}": percentile(times, p) for p in (90, 95, 99)},
        "latency_ms_max": float(times.max()),
        "latency_ms_mean": float(times.mean()),
        "latency_ms_per_clip": median / row["batch"],
        "latency_cv": float(times.std() / times.mean()),
        "rounds": len(times),
    }
    for key, value in expected.items():
        if not isclose(row[key], value, rel_tol=RELATIVE, abs_tol=ABSOLUTE_MS):
            yield f"{key} is {row[key]:.6g}, its times_ms give {value:.6g}"


def _ratio(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    ratio, low, high = (row[key] for key in ("latency_ratio", "latency_ratio_low", "latency_ratio_high"))
    verdict = row["verdict"]
    if verdict == NOT_PAIRED:
        if low is not None or high is not None:
            yield "latency_ratio_low: rows that were not measured in turns have no interval"
        return
    if ratio is None or low is None or high is None:
        yield f"latency_ratio: missing, and the verdict is {verdict}"
        return
    if not low <= ratio <= high or (verdict == "faster" and high >= 1) or (verdict == "slower" and low <= 1):
        yield f"verdict {verdict} does not follow from latency_ratio {interval(row)}"
    if (verdict == "baseline") != (row["contender"] == row["baseline"]):
        yield f"verdict {verdict}, and the baseline is {row['baseline']}"
    group = [other for other in rows if all(other[key] == row[key] for key in ("suite", "mode", "batch"))]
    base = next((other for other in group if other["contender"] == row["baseline"]), None)
    if base is None:
        yield f"baseline {row['baseline']} has no row of suite {row['suite']}, {row['mode']}, batch {row['batch']}"
    elif len(base["times_ms"]) != len(row["times_ms"]):
        yield f"times_ms: {len(row['times_ms'])} times, {len(base['times_ms'])} of {row['baseline']}: no pairs"
    elif len(row["times_ms"]) < LEAST_PAIRED:
        yield f"times_ms: {len(row['times_ms'])} times tell no ratio, {LEAST_PAIRED} or more do"
    else:
        paired = paired_ratio(np.array(row["times_ms"]), np.array(base["times_ms"])).median
        if not isclose(ratio, paired, rel_tol=RELATIVE):
            yield f"latency_ratio is {ratio:.6g}, the times_ms give {paired:.6g}"


def interval(row: Mapping[str, Any]) -> str:
    """`1.102 [1.095, 1.110]`: the latency ratio with its 95 % interval; `1` for the baseline."""
    if row.get("latency_ratio") is None:
        return MISSING
    if row["latency_ratio_low"] is None:
        return f"{row['latency_ratio']:.3f} [{NOT_PAIRED}]"
    if row["latency_ratio_low"] == row["latency_ratio_high"] == 1:
        return "1"
    return f"{row['latency_ratio']:.3f} [{row['latency_ratio_low']:.3f}, {row['latency_ratio_high']:.3f}]"


def _agreement(row: Mapping[str, Any], key: str, spec: str) -> str:
    """One number of how far the logits are from the baseline's; missing where the weights are others."""
    report = row.get("agreement")
    return (
        MISSING if report is None or report[key] is None or row["verdict"] == "baseline" else format(report[key], spec)
    )


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
    "max dlogit": lambda row: _agreement(row, "max_abs", ".1e"),
    "first label equal": lambda row: _agreement(row, "top1_agreement", ".1%"),
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
