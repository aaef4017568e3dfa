"""One table from training to the engine: `python -m bench.demo runs/demo`.

Joins what each workshop wrote about the same packs: accuracy (train.evaluate), parity and fusion (export), latency
(bench.run). Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError, ModelError, run_tool
from apt_edge.files import write_json
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.tables import Row, markdown_table
from bench.rows import ROWS, SUMMARY, SUMMARY_COLUMNS, read_rows

COPIED = (
    "gmacs", "gmacs_ratio", "latency_ms_median", "latency_ms_p90", "latency_ms_p99",
    "latency_ratio", "latency_ratio_low", "latency_ratio_high", "verdict", "baseline",
)  # fmt: skip


@dataclass(frozen=True)
class MethodFiles:
    """What the workshops left for one method.

    Attributes:
        evaluation: JSON of the folded pack's evaluation: `accuracy`, `accuracy_shuffled`.
        metrics: JSON lines of the training run, one an epoch, with `val_accuracy`.
        cpu: exported model directory that was measured, float32.
        engine: exported and compiled model directory, float16.
    """

    evaluation: Path
    metrics: Path
    cpu: Path
    engine: Path

    @classmethod
    def in_run(cls, run: Path) -> MethodFiles:
        """The files where train.tune and export.to_onnx put them by default."""
        exports = run / "export"
        return cls(
            run / "evaluation.json", run / "metrics.jsonl", exports / "onnxruntime-cpu", exports / "tensorrt-rtx"
        )


def summarise_methods(methods: Mapping[str, MethodFiles], rows: Sequence[Row]) -> list[Row]:
    """One row a method; latencies are ms on the CPU, ratios refer to the benchmark's baseline.

    A benchmark row is found by the hash of its graph, never by its name.

    Raises:
        ConfigError: a file is missing or holds something else.
        ModelError: a model directory is damaged, was not compiled, or the benchmark measured another graph.
    """
    return [_method_row(name, files, rows) for name, files in methods.items()]


def _method_row(name: str, files: MethodFiles, rows: Sequence[Row]) -> Row:
    evaluation = _read_json(files.evaluation)
    cpu, compiled = ModelDir.load(files.cpu), ModelDir.load(files.engine)
    engine = compiled.facts.get("engine")
    if engine is None:
        raise ModelError(f"{files.engine} was not compiled", fix=f"run export.to_engine {files.engine}")
    if cpu.facts.get("pack_sha256") != compiled.facts.get("pack_sha256"):
        raise ModelError(
            f"{files.cpu} and {files.engine} come from different packs", fix="export both again from one pack"
        )
    measured = [row for row in rows if row.get("model_sha256") == cpu.facts["onnx_sha256"]]
    if not measured:
        raise ModelError(
            f"the benchmark did not measure {cpu.onnx}",
            found=f"{len(rows)} rows of other graphs",
            fix="run bench.run again after the export",
        )
    try:
        return {
            "method": name,
            "accuracy": float(evaluation["accuracy"]),
            "accuracy_shuffled": evaluation["accuracy_shuffled"],  # None after an evaluation over several views
            "trainable_parameters": int(cpu.facts["trainable_parameters"]),
            **{key: measured[0][key] for key in COPIED},
            "fused_attention": engine["fused_attention"],
            "attention": engine["attention"],
            "compiler": engine["compiler"],
            "parity_max_abs": cpu.facts["parity"]["max_abs"],
            "parity_max_abs_float16": compiled.facts["parity"]["max_abs"],
            "accuracy_curve": _curve(files.metrics),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"a result of the method {name} is incomplete", found=f"{type(error).__name__}: {error}", fix="run it again"
        ) from None


def _curve(path: Path) -> list[tuple[int, float]]:
    """Validation accuracy `(epoch, accuracy)` of the epochs that measured it."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable log", found=str(error), fix="run train.tune again") from None
    return [(r["epoch"], r["val_accuracy"]) for r in records if r.get("val_accuracy") is not None]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable", found=str(error), fix="run train.evaluate first") from None


def main() -> None:
    """Join training, export and benchmark results of several methods into one table."""
    parser = argparse.ArgumentParser(prog="bench.demo", description=main.__doc__)
    parser.add_argument("run", type=Path, help=f"directory with {ROWS} and one training run a method")
    parser.add_argument("--methods", nargs="+", default=["linear", "apt", "vpt-deep"], help="names of those runs")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    methods = {name: MethodFiles.in_run(args.run / name) for name in args.methods}
    summary = summarise_methods(methods, read_rows(args.run / ROWS))
    write_json(args.run / SUMMARY, summary)
    print(json.dumps(summary, indent=2) if args.json else markdown_table(summary, SUMMARY_COLUMNS))


if __name__ == "__main__":
    run_tool(main, "bench.demo")
