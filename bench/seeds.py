"""Accuracy over seeds: `python -m bench.seeds runs/seeds --out bench/results/demo-seeds`.

Reads the evaluations of finished runs, `<folder>/seed-<n>/<method>/evaluation.json`. Each seed has clips of its own, so
that the spread covers the sampling of training and held-out clips as well as initialisation and order. Writes
`accuracy.json` and `accuracy.md`; nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import atomic, write_json
from apt_edge.tables import Column, Row, markdown_table, number

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom.
STUDENT_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
COLUMNS: dict[str, Column] = {
    "method": lambda row: str(row["method"]),
    "accuracy, mean": number("accuracy", ".1%"),
    "of each seed": lambda row: ", ".join(f"{value:.1%}" for value in row["accuracies"]),
    "frames shuffled": number("accuracy_shuffled", ".1%"),
    "over the baseline": number("gain", "+.1%"),
    "95 % interval": lambda row: "-" if row["gain"] is None else f"{row['gain_low']:+.1%} to {row['gain_high']:+.1%}",
    "trainable": number("trainable_parameters", ","),
}


def summarise_seeds(folder: Path, baseline: str) -> list[Row]:
    """One row a method: accuracies of all seeds and the paired gain over `baseline` with Student's 95 % interval.

    Raises:
        ConfigError: a run is missing, or there are fewer than two seeds.
    """
    seeds = sorted(folder.glob("seed-*"))
    if not 2 <= len(seeds) <= len(STUDENT_T) + 1:
        raise ConfigError(
            f"{folder} holds {len(seeds)} seeds",
            fix=f"finish 2 to {len(STUDENT_T) + 1} runs in {folder}/seed-<n>/<method>",
        )
    methods = sorted(path.parent.name for path in seeds[0].glob("*/evaluation.json"))
    if baseline not in methods:
        raise ConfigError(f"{seeds[0]} holds no run of {baseline}", found=", ".join(methods) or "nothing")
    runs = {method: [_evaluation(seed / method) for seed in seeds] for method in methods}
    reference = np.array([run["accuracy"] for run in runs[baseline]])
    return [_row(method, seeds, runs[method], None if method == baseline else reference) for method in methods]


def _row(method: str, seeds: Sequence[Path], runs: Sequence[dict[str, Any]], reference: np.ndarray | None) -> Row:
    accuracies = np.array([run["accuracy"] for run in runs])
    row: Row = {
        "method": method,
        "seeds": [seed.name for seed in seeds],
        "accuracy": float(accuracies.mean()),
        "accuracies": accuracies.tolist(),
        "accuracy_shuffled": float(np.mean([run["accuracy_shuffled"] for run in runs])),
        "trainable_parameters": runs[0]["trainable_parameters"],
        "clips": runs[0]["clips"],
        "gain": None,
        "gain_low": None,
        "gain_high": None,
    }
    if reference is not None:
        gains = accuracies - reference
        half = STUDENT_T[len(gains) - 2] * gains.std(ddof=1) / len(gains) ** 0.5
        row |= {"gain": gains.mean(), "gain_low": gains.mean() - half, "gain_high": gains.mean() + half}
    return row


def _evaluation(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run} holds no finished run", found=str(error), fix="run train.tune again") from None


def main() -> None:
    """Compare methods over the seeds of finished training runs."""
    parser = argparse.ArgumentParser(prog="bench.seeds", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="holds seed-<n>/<method>/ of train.tune")
    parser.add_argument("--baseline", default="linear", help="method to compare with (default linear)")
    parser.add_argument("--out", type=Path, help="write accuracy.json and accuracy.md here")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    rows = summarise_seeds(args.folder, args.baseline)
    table = markdown_table(rows, COLUMNS)
    if args.out:
        write_json(args.out / "accuracy.json", rows)
        with atomic(args.out / "accuracy.md") as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2) if args.json else table)


if __name__ == "__main__":
    run_tool(main, "bench.seeds")
