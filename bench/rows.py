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
from apt_edge.runtime.statistics import LEAST_PAIRED, Ratio, verdict
from apt_edge.tables import MISSING, Column, Row, number
from bench.form import Measured
from bench.numbers import NOT_PAIRED, compared, interval, timed

ROWS, SUMMARY = "rows.json", "summary.json"
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # room for the digits that times lose on disk
COMPLAINTS = 5  # of a message
RATIO = ("latency_ratio", "latency_ratio_low", "latency_ratio_high")
APART = ("baseline", NOT_PAIRED)  # verdicts without pairs of times


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

    Statistics must follow from `times_ms`, a ratio and its interval from the times of the two rows, a verdict from the
    interval, a ratio of GMACs from the GMACs.

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
    if facts["threads"] is None and row.get("source") is None:
        yield f"{name}: environment.threads is null: only a row that was sent here may have used all cores"


def _statistics(row: Row) -> Iterator[str]:
    expected = timed(np.array(row["times_ms"]), row["batch"])
    for key in expected.keys() - {"times_ms"}:
        yield from _differs(row, key, expected[key], "its times_ms give")


def _ratio(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    group = [other for other in rows if all(other[key] == row[key] for key in ("suite", "mode", "batch"))]
    base = next((other for other in group if other["contender"] == row["baseline"]), None)
    if (row["verdict"] == "baseline") != (row["contender"] == row["baseline"]):
        yield f"verdict {row['verdict']}, and the baseline is {row['baseline']}"
    elif row["verdict"] == NOT_PAIRED and row["baseline"] is None:
        for key in (*RATIO, "gmacs_ratio"):
            yield from _differs(row, key, None, "and without a baseline there is")
    elif base is None:
        yield f"baseline {row['baseline']} has no row of suite {row['suite']}, {row['mode']}, batch {row['batch']}"
    elif row["verdict"] not in APART and row["rounds"] != base["rounds"]:
        yield f"times_ms: {row['rounds']} times, {base['rounds']} of {row['baseline']}: no pairs"
    elif row["verdict"] not in APART and row["rounds"] < LEAST_PAIRED:
        yield f"times_ms: {row['rounds']} times tell no ratio, {LEAST_PAIRED} or more do"
    else:
        yield from _comparison(row, base)


def _comparison(row: Row, base: Row) -> Iterator[str]:
    times = {one["contender"]: np.array(one["times_ms"]) for one in (base, row)}
    expected = compared(times, row["contender"], base["contender"], paired=row["verdict"] != NOT_PAIRED)
    for key in RATIO:
        yield from _differs(row, key, expected[key], "the times_ms give")
    found = [row[key] for key in RATIO]
    if row["verdict"] not in APART and None not in found and row["verdict"] != verdict(Ratio(*found)):
        yield f"verdict {row['verdict']} does not follow from latency_ratio {interval(row)}"
    gmacs = row["gmacs"] / base["gmacs"] if row["gmacs"] is not None and base["gmacs"] else None
    yield from _differs(row, "gmacs_ratio", gmacs, "the gmacs give")


def _differs(row: Row, key: str, expected: float | None, says: str) -> Iterator[str]:
    found = row[key]
    if found is None or expected is None:
        follows = found is expected
    else:
        follows = isclose(found, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if not follows:
        yield f"{key} is {_text(found)}, {says} {_text(expected)}"


def _text(number: float | None) -> str:
    return "null" if number is None else f"{number:.6g}"


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
