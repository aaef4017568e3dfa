"""Suite -> rows: `python -m bench.run bench/suites/x.toml`.

All contenders run interleaved in one process on the same clips; every row carries its ratio to the baseline with a 95 %
interval, what the graph costs in theory, and the circumstances.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import write_json
from apt_edge.runtime.agreement import agreement
from apt_edge.runtime.machine import machine
from apt_edge.runtime.model_dir import OUTPUT, ModelDir
from apt_edge.runtime.session import Session
from apt_edge.runtime.sessions import SESSIONS
from apt_edge.runtime.statistics import paired_ratio, summarise, verdict
from apt_edge.runtime.timing import measure_interleaved
from apt_edge.tables import Row, markdown_table
from bench.build import build, build_unfolded, random_clips
from bench.graph import graph_macs
from bench.rows import BENCH_COLUMNS, ROWS, interval
from bench.suite import Contender, Suite
from export.to_onnx import clips_of

RUNS = Path("runs/bench")


def run_suite(suite: Suite, out: Path, cache: Path = RUNS / "models") -> list[Row]:
    """Measure a suite and write `rows.json`.

    Args:
        suite: what to compare.
        out: directory for the rows.
        cache: where random models are kept between runs.

    Returns:
        One row a contender, in the suite's order; see `_row`.

    Raises:
        ModelError: a contender is damaged, or its graph cannot be counted.
        ConfigError: the contenders do not take the same clips.
    """
    contenders = {contender.name: contender for contender in suite.contenders}
    models = {name: ModelDir.load(_directory(contender, cache)) for name, contender in contenders.items()}
    accuracies = {name: _accuracy(contender) for name, contender in contenders.items()}
    clips = _clips(suite, models)
    circumstances = machine(suite.threads)
    sessions = {
        name: SESSIONS[contender.session](models[name].onnx, suite.threads) for name, contender in contenders.items()
    }
    feeds = {
        name: [models[name].feeds(session.inputs, frames) for frames in clips] for name, session in sessions.items()
    }
    callables = {name: _contender(session, feeds[name]) for name, session in sessions.items()}
    with tqdm(total=suite.rounds, desc=suite.name, unit="round", disable=None) as bar:
        times = measure_interleaved(callables, suite.rounds, suite.warmup, progress=lambda done: bar.update())
    gmacs = {name: graph_macs(model.onnx) / 1e9 for name, model in models.items()}
    drifts = _drifts(suite.baseline, models, sessions, feeds)
    rows = [
        _row(suite, contender, models[name], times, gmacs)
        | {"accuracy": accuracies[name], "drift": drifts[name], "environment": circumstances}
        for name, contender in contenders.items()
    ]
    write_json(out / ROWS, rows)
    return rows


def _drifts(
    baseline: str,
    models: Mapping[str, ModelDir],
    sessions: Mapping[str, Session],
    feeds: Mapping[str, list[dict[str, np.ndarray]]],
) -> dict[str, dict[str, Any] | None]:
    """How far each contender's logits are from the baseline's on the run's clips; None where the weights are others."""
    weights = ("method", "pack_sha256", "backbone", "prompt_tokens", "trainable_parameters")
    same = {
        name: all(model.facts.get(key) == models[baseline].facts.get(key) for key in weights)
        for name, model in models.items()
    }
    logits = {
        name: np.concatenate([session.run(feed)[OUTPUT] for feed in feeds[name]])
        for name, session in sessions.items()
        if same[name]
    }
    return {name: agreement(logits[baseline], logits[name]) if same[name] else None for name in models}


def check_gmacs(suite: Suite, rows: list[Row]) -> None:
    """Raises GateError when a latency ratio leaves the suite's tolerance around its GMAC ratio."""
    if suite.gmacs_tolerance is None:
        return
    beyond = [row for row in rows if abs(row["latency_ratio"] / row["gmacs_ratio"] - 1) > suite.gmacs_tolerance]
    if beyond:
        raise GateError(
            f"latency does not follow the GMACs within {suite.gmacs_tolerance:.0%}",
            found="; ".join(
                f"{row['contender']}: latency ratio {interval(row)}, GMAC ratio {row['gmacs_ratio']:.3f}"
                for row in beyond
            ),
            fix="repeat on a quiet machine with more rounds; if it stays, look for operators that do not fuse",
        )


def _directory(contender: Contender, cache: Path) -> Path:
    if contender.random:
        return build(contender.random, contender.session, cache)
    if contender.unfolded:
        return build_unfolded(Path(contender.unfolded))
    assert contender.model is not None  # Contender has exactly one source
    return Path(contender.model)


def _row(
    suite: Suite, contender: Contender, model: ModelDir, times: dict[str, np.ndarray], gmacs: dict[str, float]
) -> Row:
    """One result. Latencies are ms, ratios refer to the baseline, `times_ms[i]` of all rows belong to round i.

    `precision` is the graph's; the session may compute in another one, as its name says.
    """
    name = contender.name
    statistics = summarise(times[name])
    ratio = paired_ratio(times[name], times[suite.baseline])
    return {
        "suite": suite.name,
        "contender": name,
        "session": contender.session,
        "method": model.facts.get("method"),
        "precision": model.facts["precision"],
        "latency_ms_median": statistics["median"],
        "latency_ms_p90": statistics["p90"],
        "latency_ms_p99": statistics["p99"],
        "latency_ms_mean": statistics["mean"],
        "latency_cv": statistics["cv"],
        "rounds": statistics["n"],
        "baseline": suite.baseline,
        "latency_ratio": ratio.median,
        "latency_ratio_low": ratio.low,
        "latency_ratio_high": ratio.high,
        "verdict": "baseline" if name == suite.baseline else verdict(ratio),
        "gmacs": gmacs[name],
        "gmacs_ratio": gmacs[name] / gmacs[suite.baseline],
        "trainable_parameters": model.facts.get("trainable_parameters"),
        "clips": suite.clips or "noise from a seed",
        "onnx_sha256": model.facts["onnx_sha256"],
        "times_ms": [round(float(ms), 6) for ms in times[name]],
    }


def _clips(suite: Suite, models: dict[str, ModelDir]) -> np.ndarray:
    """The clips of the run, uint8 `[M, T, S, S, 3]`: every contender gets the same ones in the same rounds."""
    first, *others = models.values()
    for other in others:
        if difference := first.clip.difference(other.clip):
            raise ConfigError(
                f"{first.path} and {other.path} take different clips",
                found=difference,
                fix="compare models of one input contract, or write two suites",
            )
    if suite.clips:
        return clips_of(Path(suite.clips), first.clip, suite.clip_count)
    return random_clips(first.clip, suite.clip_count)


def _contender(session: Session, feeds: list[dict[str, np.ndarray]]) -> Callable[[], None]:
    endless = cycle(feeds)

    def once() -> None:
        session.run(next(endless))

    return once


def _accuracy(contender: Contender) -> float | None:
    if contender.evaluation is None:
        return None
    try:
        return float(json.loads(Path(contender.evaluation).read_text(encoding="utf-8"))["accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{contender.evaluation} holds no accuracy",
            found=f"{type(error).__name__}: {error}",
            fix="give the JSON of train.evaluate, or leave evaluation out",
        ) from None


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
    print(json.dumps(rows, indent=2) if args.json else markdown_table(rows, BENCH_COLUMNS))
    check_gmacs(suite, rows)


if __name__ == "__main__":
    run_tool(main, "bench.run")
