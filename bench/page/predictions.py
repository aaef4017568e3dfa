"""What the report says of latencies that were predicted and not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apt_edge.errors import ConfigError
from apt_edge.tables import Column, Row
from bench.figures.predictions import predictions
from bench.predict import COLUMNS, beyond

PREDICTED = "predicted.json"


@dataclass(frozen=True)
class Prediction:
    """Rows of `bench.predict` with their columns, a figure, and the error that back-testing shows."""

    note: str
    rows: Sequence[Row]
    columns: Mapping[str, Column]
    svg: str


def make_prediction(rows: Sequence[Row]) -> Prediction:
    """The part of the page for one file of predictions; raises ConfigError when a row is not one."""
    if any(row.get("kind") != "predicted" for row in rows):
        raise ConfigError(
            f"{PREDICTED} holds rows of another kind", found=", ".join({str(row.get("kind")) for row in rows}),
            fix="write it with bench.predict --out",
        )  # fmt: skip
    errors = dict.fromkeys(_error(row) for row in rows)
    farthest = max(rows, key=lambda row: (row["tokens"], row["video_tokens"]))
    note = (
        f"Nobody ran these models there: a roofline fitted on published latencies says it. {' '.join(errors)} "
        f"{beyond(farthest)}"
    )
    return Prediction(note, rows, COLUMNS, predictions(rows))


def _error(row: Row) -> str:
    error = row["error"]
    known = f"published are {', '.join(row['anchors'])}" if row["anchors"] else "nothing is published for it"
    return (
        f"{row['device_name']}: {known}; in back-tests of such devices the median error is {error['median']:.0%}, the "
        f"worst {error['worst']:.0%}, and nine of ten lie within a factor of {error['factor']:.2f}."
    )
