"""The results of a benchmark on disk and as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError

ROWS, SUMMARY = "rows.json", "summary.json"

MISSING = "-"

Row = dict[str, Any]
Column = Callable[[Mapping[str, Any]], str]


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


def number(key: str, form: str) -> Column:
    """A column that formats `row[key]`, and shows a dash where there is no value."""
    return lambda row: MISSING if row.get(key) is None else format(row[key], form)


def interval(row: Mapping[str, Any]) -> str:
    """`1.102 [1.095, 1.110]`: the latency ratio with its 95 % interval; `1` for the baseline."""
    if row.get("latency_ratio") is None:
        return MISSING
    if row["latency_ratio_low"] == row["latency_ratio_high"] == 1:
        return "1"
    return f"{row['latency_ratio']:.3f} [{row['latency_ratio_low']:.3f}, {row['latency_ratio_high']:.3f}]"


BENCH_COLUMNS: dict[str, Column] = {
    "contender": lambda row: str(row["contender"]),
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


def cells(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> tuple[list[str], list[list[str]]]:
    """Column titles and formatted cells; a column that has no value in any row is left out."""
    table = {title: [column(row) for row in rows] for title, column in columns.items()}
    titles = [title for title, texts in table.items() if any(text != MISSING for text in texts)]
    return titles, [[table[title][index] for title in titles] for index in range(len(rows))]


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column] = BENCH_COLUMNS) -> str:
    """The rows as a Markdown table whose source is aligned."""
    titles, body = cells(rows, columns)
    widths = [max(len(line[index]) for line in [titles, *body]) for index in range(len(titles))]

    def line(texts: Sequence[str]) -> str:
        first, *others = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
        return "| " + " | ".join([first, *(text.strip().rjust(len(text)) for text in others)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(titles), rule, *map(line, body)])
