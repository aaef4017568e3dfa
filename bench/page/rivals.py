"""Ours against what a user would pick instead: PyTorch eager or compiled, Hugging Face, the plain ONNX export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apt_edge.runtime.statistics import paired_ratio, verdict
from apt_edge.tables import MISSING, Column, Row, number
from bench.numbers import NOT_PAIRED

OURS = "apt-edge"


def is_pick(row: Mapping[str, Any]) -> bool:
    """Whether a user would come to this without the project: PyTorch itself, or what others built."""
    return str(row["session"]).startswith("pytorch") or row["built"] not in (OURS, None)


def against_picks(rows: Sequence[Row]) -> list[Row]:
    """Every contender of ours against every pick with the same weights, measured in turns in the same run.

    Returns:
        One row a pair, those of equal precision first: `speed`, how many times as fast ours is, with its 95 % interval,
        `precision` where the two differ in it, and bounds of how far they differ in their outputs, from how far each is
        from the contender that `agreement` refers to.
    """
    pairs = []
    for pick in filter(_comparable, rows):
        for own in filter(_comparable, rows):
            alike = all(pick[key] == own[key] for key in ("mode", "batch", "method", "tokens"))
            alike &= pick["agreement"].get("against") == own["agreement"].get("against")
            if is_pick(pick) and own["built"] == OURS and not is_pick(own) and alike:
                pairs.append(_pair(pick, own))
    return sorted(pairs, key=lambda pair: pair["precision"] is not None)


def _comparable(row: Row) -> bool:
    known = row["agreement"] is not None and row["agreement"]["max_abs"] is not None  # else logits are not finite
    return known and row["verdict"] != NOT_PAIRED


def _pair(pick: Row, own: Row) -> Row:
    speed = paired_ratio(np.array(pick["times_ms"]), np.array(own["times_ms"]))
    return {
        "pick": pick["contender"],
        "pick_session": pick["session"],
        "ours": own["contender"],
        "ours_session": own["session"],
        "batch": own["batch"],
        "precision": None if own["precision"] == pick["precision"] else f"{own['precision']} for {pick['precision']}",
        "speed": speed.median,
        "speed_low": speed.low,
        "speed_high": speed.high,
        "verdict": {"slower": "faster", "faster": "slower"}.get(verdict(speed), verdict(speed)),
        "max_abs": _sum(pick, own, lambda report: report["max_abs"]),
        "different_labels": _sum(pick, own, lambda report: 1 - report["top1_agreement"]),
    }


def _sum(pick: Row, own: Row, distance: Callable[[Mapping[str, Any]], float]) -> float:
    """Bound of a distance between two rows from both distances to a third."""
    return distance(pick["agreement"]) + distance(own["agreement"])


PICK_COLUMNS: dict[str, Column] = {
    "ours": lambda row: f"{row['ours']} ({row['ours_session']})",
    "instead of": lambda row: f"{row['pick']} ({row['pick_session']})",
    "clips a run": lambda row: MISSING if row["batch"] == 1 else str(row["batch"]),
    "in another precision": lambda row: row["precision"] or MISSING,
    "times as fast [95 %]": lambda row: f"{row['speed']:.2f} [{row['speed_low']:.2f}, {row['speed_high']:.2f}]",
    "ours is": lambda row: str(row["verdict"]),
    "max dlogit <=": number("max_abs", ".1e"),
    "first label differs <=": number("different_labels", ".1%"),
}
