"""Two equal sessions against each other, again and again: `python -m bench.aa`. A bench that names winners here lies.

Every run opens two sessions of one graph, as a suite would for two contenders, and compares them. An interval covers
how rounds differ. It does not cover how sessions do: where the memory of one lies makes it a little faster or slower
for as long as it lives, so that more than 5 % of the intervals may exclude 1. A verdict therefore names a winner only
beyond 0.5 % (`statistics.RESOLUTION`), and that is what the gate is about: at most 5 % of the runs may name one. The
spread of the runs' medians about 1 says whether 0.5 % is enough.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import write_json
from apt_edge.runtime.machine import machine
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.statistics import LEAST_PAIRED, RESOLUTION, Ratio, paired_ratio, percentile, verdict
from apt_edge.runtime.timing import Run, measure_interleaved
from bench.build import build, random_clips
from bench.run import RUNS
from bench.suite import RandomModel, SessionName

RESULT = "aa.json"
SESSION: SessionName = "onnxruntime-cpu"
THREADS, WARM_UP = 1, 5
SHARE = 0.05


def measure_equals(size: str, runs: int, rounds: int, out: Path, cache: Path = RUNS / "models") -> dict[str, Any]:
    """Compare two sessions of a model without prompts, ONNX Runtime on one thread, and write `aa.json`.

    Args:
        size: of the backbone.
        runs: how many comparisons.
        rounds: of each.
        out: directory for the result.
        cache: where random models are kept.

    Returns:
        `session`, `size`, `model_sha256`, `environment`, `runs`, `rounds`, `winners` (runs that named one),
        `excludes_one` (runs whose interval does, whatever the verdict), `off_one` (distance of the runs' medians from
        1: `median`, `p95` and `max` over the runs) and `ratios`: median, low, high and verdict of every run.
    """
    model = ModelDir.load(build(RandomModel(size=size, method="linear"), SESSION, cache))
    frames = random_clips(model.clip, 1)[0]
    environment = machine(THREADS)  # the load before our own
    ratios = []
    for _ in tqdm(range(runs), desc="equal sessions", unit="run", disable=None):
        sides = {name: _open(model, frames) for name in ("a", "b")}
        times = measure_interleaved(sides, rounds, WARM_UP)
        ratios.append(paired_ratio(times["a"], times["b"]))
    off = [abs(ratio.median - 1) for ratio in ratios]
    result = {
        "session": SESSION,
        "size": size,
        "model_sha256": model.facts["onnx_sha256"],
        "environment": environment,
        "runs": runs,
        "rounds": rounds,
        "winners": sum(map(names_winner, ratios)),
        "excludes_one": sum(not ratio.low <= 1 <= ratio.high for ratio in ratios),
        "off_one": {"median": float(np.median(off)), "p95": percentile(np.array(off), 95), "max": max(off)},
        "ratios": [ratio._asdict() | {"verdict": verdict(ratio)} for ratio in ratios],
    }
    write_json(out / RESULT, result)
    return result


def names_winner(ratio: Ratio) -> bool:
    """Whether a comparison calls one side faster."""
    return verdict(ratio) != "no difference"


def describe(result: dict[str, Any]) -> str:
    """The result in three lines."""
    off, runs = result["off_one"], result["runs"]
    widths = [ratio["high"] - ratio["low"] for ratio in result["ratios"]]
    return (
        f"{result['winners']} of {runs} runs of {result['rounds']} rounds named a winner between two equal sessions\n"
        f"{result['excludes_one']} of {runs} intervals exclude 1; they are {np.median(widths):.1%} wide (median)\n"
        f"the runs' medians lie {off['median']:.2%} from 1 (median), {off['p95']:.2%} (95th percentile), "
        f"{off['max']:.2%} at most; a verdict takes {RESOLUTION:.1%} or less for no difference"
    )


def check(result: dict[str, Any]) -> None:
    """Raises GateError when more than 5 % of the runs named a winner."""
    if result["winners"] > SHARE * result["runs"]:
        raise GateError(
            f"more than {SHARE:.0%} of comparisons between equal sessions name a winner",
            found=describe(result),
            fix="stop what else is running, keep clocks and cores fixed, and repeat; until then trust no small ratio",
        )


def _open(model: ModelDir, frames_TSSC: np.ndarray) -> Run:
    session = OrtSession(model.onnx, THREADS)
    return partial(_run, session, model.feeds(session.inputs, frames_TSSC))


def _run(session: OrtSession, feeds: dict[str, np.ndarray]) -> None:
    session.run(feeds)


def main() -> None:
    """Measure how often equal sessions are told apart; exit code 4 when more than 5 % of the runs do."""
    parser = argparse.ArgumentParser(prog="bench.aa", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=100, help="comparisons (default 100)")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each (default 40)")
    parser.add_argument("--size", default="nano", help="of the backbone (default nano)")
    parser.add_argument("--out", type=Path, default=RUNS / "aa", help=f"directory for {RESULT} (default: {RUNS}/aa)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    if args.runs < 1 or args.rounds < LEAST_PAIRED:
        raise ConfigError(
            "there is nothing to compare",
            found=f"{args.runs} runs of {args.rounds} rounds",
            fix=f"give --runs 1 or more and --rounds {LEAST_PAIRED} or more",
        )
    result = measure_equals(args.size, args.runs, args.rounds, args.out)
    print(json.dumps(result, indent=2) if args.json else describe(result))
    check(result)


if __name__ == "__main__":
    run_tool(main, "bench.aa")
