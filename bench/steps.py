"""What one training step costs, method by method: `python -m bench.steps bench/suites/steps-x.toml`.

Time is measured: all contenders take turns in one process, ratios carry a 95 % interval. Peak memory and the products
of a step are counted (`train.engine.stepcost`) and repeat exactly.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.config import load_toml
from apt_edge.errors import run_tool
from apt_edge.files import atomic, write_json
from apt_edge.methods.tuned import TunedModel
from apt_edge.runtime.machine import machine
from apt_edge.runtime.timing import measure_interleaved
from apt_edge.tables import Column, Row, markdown_table, number
from bench.figures.ratios import ratio_against_gmacs
from bench.flops import make_method
from bench.numbers import compared, interval, timed
from bench.rows import ROWS
from bench.run import RUNS
from bench.suite import StepContender, StepSuite
from train.engine.stepcost import Step, make_step, peak_bytes, step_macs
from train.recipe import checked_settings

TABLE, PLOT = "table.md", "steps.svg"

COLUMNS: dict[str, Column] = {
    "a training step of": lambda row: str(row["contender"]),
    "trainable": number("trainable_parameters", ","),
    "GMACs": number("gmacs", ".4g"),
    "GMAC ratio": number("gmacs_ratio", ".3f"),
    "median ms": number("latency_ms_median", ".4g"),
    "CV": number("latency_cv", ".1%"),
    "time ratio [95 %]": interval,
    "peak MB": number("peak_mb", ".4g"),
    "memory ratio": number("peak_ratio", ".3f"),
}
PAIR_COLUMNS: dict[str, Column] = {
    "a training step of": lambda row: str(row["contender"]),
    "against": lambda row: str(row["baseline"]),
    "GMAC ratio": COLUMNS["GMAC ratio"],
    "time ratio [95 %]": interval,
    "memory ratio": COLUMNS["memory ratio"],
}


def run_suite(suite: StepSuite, out: Path) -> list[Row]:
    """Measure a suite and write `rows.json`, `table.md` and `steps.svg` into `out`.

    Returns:
        One row a contender, in the suite's order; `against` in a row holds its further comparisons.
    """
    torch.set_num_threads(suite.threads)
    circumstances = machine(suite.threads)
    steps = {contender.name: make_contender(suite, contender) for contender in suite.contenders}
    counted = {
        name: {"gmacs": step_macs(step) / 1e9, "peak_mb": peak_bytes(step) / 1e6} for name, step in steps.items()
    }
    with tqdm(total=suite.rounds, desc=suite.name, unit="round", disable=None) as bar:
        times = measure_interleaved(steps, suite.rounds, suite.warmup, progress=lambda done: bar.update())
    rows = [
        {
            "suite": suite.name,
            "contender": contender.name,
            "method": contender.method,
            "settings": checked_settings(contender.method, contender.settings),
            "cached": contender.cached,
            "backbone": suite.backbone,
            "batch": suite.batch,
            "trainable_parameters": steps[contender.name].model.trainable_parameters(),
            **counted[contender.name],
            **timed(times[contender.name], suite.batch),
            **_compared(contender.name, suite.baseline, times, counted),
            "against": [_compared(contender.name, other, times, counted) for other in contender.against],
            "environment": circumstances,
        }
        for contender in suite.contenders
    ]
    write_json(out / ROWS, rows)
    for name, text in ((TABLE, tables(rows)), (PLOT, ratio_against_gmacs(rows))):
        with atomic(out / name) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    return rows


def make_contender(suite: StepSuite, contender: StepContender) -> Step:
    """The step of one contender, on a backbone of its own; the same initial weights in every run."""
    vit = load_backbone(suite.backbone)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TunedModel(vit, make_method(contender.method, vit.config, contender.settings), suite.classes)
    return make_step(model, suite.batch, contender.cached)


def tables(rows: list[Row]) -> str:
    """Every contender against the baseline, then the comparisons between others, as Markdown."""
    pairs = [{"contender": row["contender"], **pair} for row in rows for pair in row["against"]]
    parts = [markdown_table(rows, COLUMNS), *([markdown_table(pairs, PAIR_COLUMNS)] if pairs else [])]
    return "\n\n".join(parts)


def _compared(name: str, other: str, times: dict[str, np.ndarray], counted: dict[str, dict[str, float]]) -> Row:
    """Ratios of one contender's costs to another's."""
    return {
        "baseline": other,
        **compared(times, name, other),
        "gmacs_ratio": counted[name]["gmacs"] / counted[other]["gmacs"],
        "peak_ratio": counted[name]["peak_mb"] / counted[other]["peak_mb"],
    }


def main() -> None:
    """Measure the training steps of a suite against each other."""
    parser = argparse.ArgumentParser(prog="bench.steps", description=main.__doc__)
    parser.add_argument("suite", type=Path, help="bench/suites/steps-*.toml")
    parser.add_argument("--out", type=Path, help=f"directory for {ROWS}, {TABLE}, {PLOT} (default: {RUNS}/<suite>)")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="replace a value, as in --set rounds=40")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    suite = load_toml(args.suite, StepSuite, args.set)
    rows = run_suite(suite, args.out or RUNS / suite.name)
    print(json.dumps(rows, indent=2) if args.json else tables(rows))


if __name__ == "__main__":
    run_tool(main, "bench.steps")
