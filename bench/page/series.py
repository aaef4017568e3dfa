"""How latency grows along a sweep: the fitted slope beside the one that the arithmetic predicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apt_edge.runtime.statistics import median_of_blocks
from apt_edge.tables import Column, Row
from bench.numbers import NOT_PAIRED
from bench.sent import BUNDLE

LEAST_POINTS = 3
Key = tuple[str, str, str, str, int]  # axis, name, session, mode, batch; batch 0 on the axis of batches
UNITS = {"tokens": "prompt a block", "batch": "clip a run", "frames": "frame a clip", "size": "pixel a side"}


@dataclass(frozen=True)
class Series:
    """Rows that differ in one number alone, and the line through them.

    Attributes:
        axis: `tokens`, `batch`, `frames` or `size`.
        name: of the series.
        session: what ran it.
        rows: by rising value.
        values: of the axis, one a row.
        slope, low, high: ms a run for one unit more: each round has its least-squares slope, these are its median over
            the ABBA blocks and the 95 % interval.
        intercept: ms at 0 of the line with that slope through the middle of the medians.
        predicted_ms: of each row, its GMACs at the baseline's ms per GMAC; empty when GMACs are not known.
    """

    axis: str
    name: str
    session: str
    rows: Sequence[Row]
    values: Sequence[float]
    slope: float
    low: float
    high: float
    intercept: float
    predicted_ms: Sequence[float]

    @property
    def predicted_slope(self) -> float | None:
        """ms for one unit more if time followed the GMACs, least squares too."""
        return float(_slopes(self.values, np.asarray(self.predicted_ms))) if self.predicted_ms else None

    @property
    def residual(self) -> float:
        """Largest distance of a median from the line, as a fraction of the median: how straight the series is."""
        medians = _medians(self.rows)
        return float(np.max(np.abs(self.intercept + self.slope * np.asarray(self.values) - medians) / medians))


def in_turns(rows: Sequence[Row]) -> bool:
    """Whether the rows of a suite were measured round by round in one process, so that rounds can be compared."""
    bundles = any((row.get("source") or {}).get("form") == BUNDLE for row in rows)
    return not bundles and all(row["verdict"] != NOT_PAIRED and row["mode"] != "mlperf" for row in rows)


def find_series(rows: Sequence[Row]) -> list[Series]:
    """All series of one suite: sweeps, a contender at several batches, contenders named by their prompts.

    None of a suite that was not measured in turns: without rounds a slope has no interval.
    """
    if not in_turns(rows):
        return []
    groups: dict[Key, dict[float, Row]] = {}
    for row in rows:
        for axis, value, name in _places(row):
            key = (axis, name, row["session"], row["mode"], 0 if axis == "batch" else row["batch"])
            groups.setdefault(key, {}).setdefault(value, row)
    for (axis, _, *same), points in groups.items():  # where a series of prompts begins: the model without any
        for row in rows:
            if axis == "tokens" and row["tokens"] == 0 and [row["session"], row["mode"], row["batch"]] == same:
                points.setdefault(0, row)
    long = {key: dict(sorted(points.items())) for key, points in groups.items() if len(points) >= LEAST_POINTS}
    return [_fit(key[0], _name(key, list(long)), points, rows) for key, points in long.items()]


def _name(key: Key, keys: Sequence[Key]) -> str:
    """The series' name, with session and batch where another of the same name differs in them."""
    same = [other for other in keys if other[:2] == key[:2]]
    session = f", {key[2]}" if len({other[2] for other in same}) > 1 else ""
    batch = f", batch {key[4]}" if len({other[4] for other in same}) > 1 else ""
    return key[1] + session + batch


def at_least_batch(series: Sequence[Series]) -> list[Series]:
    """Of several series those at the smallest batch among them."""
    least = min((line.rows[0]["batch"] for line in series), default=1)
    return [line for line in series if line.rows[0]["batch"] == least]


def _places(row: Row) -> Iterator[tuple[str, float, str]]:
    """Axis, value and series of a row: as it says itself, or by its prompts and its batch."""
    if point := row["point"]:
        yield point["axis"], point["value"], point["series"]
        return
    yield "batch", row["batch"], row["contender"]
    without = re.sub(rf"[ -]?\b{row['tokens']}\b", "", row["contender"])
    if row["tokens"] and without != row["contender"]:
        yield "tokens", row["tokens"], without


def _fit(axis: str, name: str, points: Mapping[float, Row], rows: Sequence[Row]) -> Series:
    values, own = list(points), list(points.values())
    rounds = min(len(row["times_ms"]) for row in own)
    times = np.array([row["times_ms"][:rounds] for row in own])
    slope, low, high = median_of_blocks(_slopes(values, times))
    intercept = float(np.mean(_medians(own)) - slope * np.mean(values))
    return Series(axis, name, own[0]["session"], own, values, slope, low, high, intercept, _predicted(own, rows))


def _predicted(own: Sequence[Row], rows: Sequence[Row]) -> list[float]:
    """ms of each row by its GMACs, at the ms per GMAC of the baseline, or of the first row where that is not known."""
    if any(not row["gmacs"] for row in own):
        return []
    same = [row for row in rows if (row["session"], row["mode"]) == (own[0]["session"], own[0]["mode"])]
    baselines = [row for row in same if row["verdict"] == "baseline" and row["gmacs"]]
    base = min(baselines or own[:1], key=lambda row: row["batch"])
    price = base["latency_ms_median"] / (base["gmacs"] * base["batch"])
    return [row["gmacs"] * row["batch"] * price for row in own]


def _slopes(values: Sequence[float], heights: np.ndarray) -> np.ndarray:
    """Least-squares slope of each column of `heights [values, rounds]`."""
    centred = np.asarray(values, dtype=float) - np.mean(values)
    return centred @ heights / (centred @ centred)


def _medians(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["latency_ms_median"] for row in rows])


def slope_row(series: Series) -> Row:
    """What a table says of a series."""
    predicted = series.predicted_slope
    return {
        "axis": series.axis,
        "series": series.name,
        "session": series.session,
        "first": series.values[0],
        "last": series.values[-1],
        "points": len(series.values),
        "slope_ms": series.slope,
        "slope_ms_low": series.low,
        "slope_ms_high": series.high,
        "predicted_slope_ms": predicted,
        "residual": series.residual,
    }


def _ratio(row: Mapping[str, Any]) -> str:
    predicted = row["predicted_slope_ms"]
    return "-" if not predicted else f"{row['slope_ms'] / predicted:.2f}"


SLOPE_COLUMNS: dict[str, Column] = {
    "series": lambda row: str(row["series"]),
    "session": lambda row: str(row["session"]),
    "points": lambda row: f"{row['points']}, {row['first']:g} to {row['last']:g}",
    "one more": lambda row: UNITS[row["axis"]],
    "costs ms [95 %]": lambda row: f"{row['slope_ms']:.4g} [{row['slope_ms_low']:.4g}, {row['slope_ms_high']:.4g}]",
    "by GMACs ms": lambda row: "-" if row["predicted_slope_ms"] is None else f"{row['predicted_slope_ms']:.4g}",
    "measured / by GMACs": _ratio,
    "farthest from the line": lambda row: f"{row['residual']:.1%}",
}
