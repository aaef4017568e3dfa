"""Ours against what a user would pick instead: PyTorch eager or compiled, Hugging Face, the plain ONNX export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apt_edge.runtime.statistics import paired_ratio, verdict
from apt_edge.tables import MISSING, Column, Row, number
from bench.numbers import NOT_PAIRED

PLAIN = re.compile(r"\bplain\b|hugging ?face", re.IGNORECASE)


def is_pick(row: Mapping[str, Any]) -> bool:
    """Whether a user would come to this without the project: PyTorch itself, or a plain export, as the name says."""
    return str(row["session"]).startswith("pytorch") or bool(PLAIN.search(row["contender"]))


def against_picks(rows: Sequence[Row]) -> list[Row]:
    """Every contender of ours against every pick with the same weights, measured in turns in the same run.

    Returns:
        One row a pair: `speed`, how many times as fast ours is, with its 95 % interval, and bounds of how far the two
        differ in their outputs, from how far each is from the contender that `agreement` refers to.
    """
    pairs = []
    for pick in filter(_comparable, rows):
        for own in filter(_comparable, rows):
            alike = all(pick[key] == own[key] for key in ("mode", "batch", "method", "tokens"))
            alike &= pick["agreement"].get("against") == own["agreement"].get("against")
            if is_pick(pick) and not is_pick(own) and alike:
                pairs.append(_pair(pick, own))
    return pairs


def _comparable(row: Row) -> bool:
    return row["agreement"] is not None and row["verdict"] != NOT_PAIRED


def _pair(pick: Row, own: Row) -> Row:
    speed = paired_ratio(np.array(pick["times_ms"]), np.array(own["times_ms"]))
    return {
        "pick": pick["contender"],
        "pick_session": pick["session"],
        "ours": own["contender"],
        "ours_session": own["session"],
        "batch": own["batch"],
        "speed": speed.median,
        "speed_low": speed.low,
        "speed_high": speed.high,
        "verdict": {"slower": "faster", "faster": "slower"}.get(verdict(speed), verdict(speed)),
        "max_abs": _sum(pick, own, lambda report: report["max_abs"]),
        "different_labels": _sum(pick, own, lambda report: 1 - report["top1_agreement"]),
    }


def _sum(pick: Row, own: Row, distance: Callable[[Mapping[str, Any]], float]) -> float | None:
    """Bound of a distance between two rows from both distances to a third; None where one is not known."""
    reports = (pick["agreement"], own["agreement"])
    if any(report["max_abs"] is None or report["top1_agreement"] is None for report in reports):
        return None
    return sum(distance(report) for report in reports)


PICK_COLUMNS: dict[str, Column] = {
    "ours": lambda row: f"{row['ours']} ({row['ours_session']})",
    "instead of": lambda row: f"{row['pick']} ({row['pick_session']})",
    "clips a run": lambda row: MISSING if row["batch"] == 1 else str(row["batch"]),
    "times as fast [95 %]": lambda row: f"{row['speed']:.2f} [{row['speed_low']:.2f}, {row['speed_high']:.2f}]",
    "ours is": lambda row: str(row["verdict"]),
    "max dlogit <=": number("max_abs", ".1e"),
    "first label differs <=": number("different_labels", ".1%"),
}
