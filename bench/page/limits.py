"""What the numbers of a report do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apt_edge.runtime.statistics import RESOLUTION
from apt_edge.tables import Row
from bench.numbers import NOT_PAIRED
from bench.page.claims import runtimes


def limits(rows: Sequence[Row], has_summary: bool = False) -> list[str]:
    """Sentences that hold for these rows; `has_summary` when a demonstration's training stands beside them."""
    devices = dict.fromkeys(str(row["device"]) for row in rows)
    return [
        f"These are latencies of {runtimes(rows)} on {' and '.join(devices)}. They say nothing about another device: "
        "measure there.",
        "The intervals cover the noise between the rounds of one run; up to 5 % of them miss. They cover neither other "
        "days and machines nor where the memory of a session happens to lie, by which equal sessions differ for as "
        f"long as they live (bench.aa): within {RESOLUTION:.1%} no winner is named.",
        "A latency is one batch through the model; reading, decoding and preprocessing of the video are in it only "
        "where stages are shown.",
        "GMACs count products and LayerNorm; softmax, GELU and memory traffic cost time and no GMACs.",
        *_alone(rows),
        *_load(rows),
        *_precision(rows),
        *_accuracy(rows, has_summary),
    ]


def _alone(rows: Sequence[Row]) -> Iterable[str]:
    if any(row["verdict"] == NOT_PAIRED for row in rows):
        yield (
            "A ratio without an interval compares medians of runs that were made one after the other: what the machine "
            "did in between is in it."
        )
    if any(row["session"].startswith("tensorrt") for row in rows):
        yield "Engines are measured by trtexec on the device, one after the other: between them no winner is named."


def _load(rows: Sequence[Row]) -> Iterable[str]:
    loads = [load for row in rows if (load := row["environment"]["load_average"]) is not None]
    if loads:
        yield (
            f"The load average before the runs was {min(loads):g} to {max(loads):g}; 0 is a quiet machine. What others "
            "did meanwhile is in the times of all contenders alike, and it widens the intervals."
        )


def _precision(rows: Sequence[Row]) -> Iterable[str]:
    if any("bfloat16" in (row["precision"], row["session"].rpartition("-")[2]) for row in rows):
        yield "bfloat16 has 8 significant bits: what that costs in accuracy must be measured on the trained model."
    if any(row["pack_sha256"] is None for row in rows):
        yield (
            "Models without a pack have random weights: their latency is that of trained ones, their outputs say "
            "nothing about accuracy, and little about what low precision does to trained weights."
        )
    if any(row["session"].startswith("pytorch-cuda") for row in rows):
        yield (
            "PyTorch on a GPU is not TensorRT: how fast an engine is there, only an engine says. trtexec measures "
            "engines on their device, one after the other; none took turns with these contenders."
        )


def _accuracy(rows: Sequence[Row], has_summary: bool) -> Iterable[str]:
    if has_summary or any(row["accuracy"] is not None for row in rows):
        yield (
            "An accuracy is of one training seed on one set of held-out clips: several seeds, with clips of their own, "
            "say whether a difference is more than noise (train.league)."
        )
    else:
        yield "No accuracy is shown: fast is not yet good."
    if has_summary:
        yield (
            "Fused attention is counted in what the compiler built. The engine itself was not run for this page: a "
            "fused engine is not a measured one."
        )


def environments(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The different circumstances of the rows, each as names and texts; what is not known is left out."""
    found: list[dict[str, str]] = []
    for row in rows:
        if (shown := _flat(row["environment"])) not in found:
            found.append(shown)
    return found


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if key == "packages":
            flat["packages"] = ", ".join(f"{name} {number}" for name, number in value.items())
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{key}: ")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                flat |= _flat(item, f"{key} {index}: ") if isinstance(item, Mapping) else {f"{key} {index}": str(item)}
        elif value is not None:
            flat[f"{prefix}{key.replace('_', ' ')}"] = str(value)
    return {key: text for key, text in flat.items() if text}
