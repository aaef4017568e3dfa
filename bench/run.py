"""Suite -> rows: `python -m bench.run bench/suites/x.toml`.

All contenders run interleaved in one process on the same clips; every row carries its ratio to the baseline with a 95 %
interval, what the model costs in theory, what memory it takes, and the circumstances. `bench.form` has a row's keys.

A run takes uint8 frames, as they are decoded and cropped, and gives logits: whoever needs them normalised does that
within the run, in the graph or before. Ratios are to the baseline at the same batch, so that they hold for a clip, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.clip import ClipSpec
from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import write_json
from apt_edge.runtime.machine import device_name, machine
from apt_edge.tables import Row, markdown_table
from bench.clips import videos_of
from bench.contenders import Opened, open_contenders
from bench.gates import agreements, check_gates
from bench.measure import Times, energies, measure, stage_names
from bench.memory import memory_of
from bench.numbers import compared, drifted, timed
from bench.page.columns import SHORT_COLUMNS, labelled
from bench.rows import ROWS, check_rows
from bench.suite import Suite

RUNS = Path("runs/bench")


def run_suite(suite: Suite, out: Path, root: Path = RUNS) -> list[Row]:
    """Measure a suite and write `rows.json`.

    Args:
        suite: what to compare.
        out: directory for the rows.
        root: where random models and synthetic clips are kept between runs.

    Returns:
        One row a contender and batch, in the suite's order.

    Raises:
        ModelError: a contender is damaged, or its graph cannot be counted.
        ConfigError: the contenders do not take the same clips.
    """
    environment = machine(suite.threads)  # first: its load is that of the others
    videos = videos_of(suite, root)
    sizes = suite.batches if suite.mode == "offline" else [1]
    opened = list(open_contenders(suite.entries, sizes, suite.threads, root / "models"))
    _check_clips(opened)
    frames = {clip: videos.frames(clip) for clip in dict.fromkeys(one.clip for one in opened)}
    memory = [memory_of(_description(one, suite)) for one in tqdm(opened, desc="memory", disable=None)]
    times = measure(suite, opened, videos, frames)
    energy = energies(opened, frames)
    outputs = agreements(suite.baseline, opened, frames)
    rows = [
        _row(suite, one, times)
        | _compared(suite, one, opened, times)
        | {"agreement": outputs[one.key], "memory": memory[index], "energy": energy[one.key]}
        | {"device": device_name(environment, one.on_gpu), "clips": videos.source, "environment": environment}
        | {"warnings": drifted(times[one.key])}
        for index, one in enumerate(opened)
    ]
    check_rows(rows, out / ROWS)  # as every reader does: what none of them would take is not written
    write_json(out / ROWS, rows)
    return rows


def _check_clips(opened: Sequence[Opened]) -> None:
    """Every contender sees the same videos in the same way; only a sweep may change the frames or their size."""
    first = opened[0]
    for other in opened:
        swept = {point.axis for point in (first.contender.point, other.contender.point) if point is not None}
        clip = ClipSpec.from_dict(
            other.clip.to_dict() | {key: getattr(first.clip, key) for key in swept & {"frames", "size"}}
        )
        if difference := first.clip.difference(clip):
            raise ConfigError(
                f"{first.contender.name} and {other.contender.name} take different clips",
                found=difference,
                fix="compare models of one input contract, or write two suites",
            )


def _description(one: Opened, suite: Suite) -> dict[str, Any]:
    """A contender for `bench.memory`."""
    own: dict[str, Any] = {"session": one.contender.session, "threads": suite.threads, "batch": one.batch}
    if one.source is not None:
        return own | {"model": str(one.source)}
    assert one.contender.random is not None
    return own | {"random": one.contender.random.model_dump()}


def _row(suite: Suite, one: Opened, times: Times) -> Row:
    """What a row says of one contender alone; times are ms."""
    point, stages = one.contender.point, None
    if suite.stages:
        medians = {name: float(np.median(times[key])) for name, key in stage_names(one).items()}
        stages = {"transfer_ms": None, **medians}
    swept = {"axis": "batch", "value": one.batch, "series": one.contender.name} if suite.mode == "offline" else None
    return {
        "kind": "measured",
        "suite": suite.name,
        "contender": one.contender.name,
        "session": one.contender.session,
        "clock": "host",
        "built": one.contender.built,
        "mode": suite.mode,
        "batch": one.batch,
        **one.facts,
        **timed(times[one.key], one.batch),
        "stages": stages,
        "point": swept if point is None else point.model_dump(),
    }


def _compared(suite: Suite, one: Opened, opened: Sequence[Opened], times: Times) -> Row:
    """One contender against the baseline at the same batch."""
    baseline = next(o for o in opened if (o.contender.name, o.batch) == (suite.baseline, one.batch))
    return {
        "baseline": suite.baseline,
        **compared(times, one.key, baseline.key, paired=suite.mode != "mlperf"),
        "gmacs_ratio": one.facts["gmacs"] / baseline.facts["gmacs"],
    }


def main() -> None:
    """Measure the contenders of a suite against each other."""
    parser = argparse.ArgumentParser(prog="bench.run", description=main.__doc__)
    parser.add_argument("suite", type=Path, help="bench/suites/*.toml")
    parser.add_argument("--out", type=Path, help=f"directory for {ROWS} (default: {RUNS}/<suite>)")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="replace a value, as in --set rounds=40")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    suite = load_toml(args.suite, Suite, args.set)
    rows = run_suite(suite, args.out or RUNS / suite.name)
    print(json.dumps(rows, indent=2) if args.json else markdown_table(labelled(rows), SHORT_COLUMNS))
    check_gates(suite, rows)


if __name__ == "__main__":
    run_tool(main, "bench.run")
