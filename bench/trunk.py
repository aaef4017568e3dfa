"""Tasks that share the first blocks: `python -m bench.trunk OUT.json`. What a task costs when there are 1, 5 and 20.

Prompts stand in the blocks from k on; the model is cut in front of block k, so that all before runs once for all tasks
(`apt_edge.runtime.runner`). Costs are in units of one run of the whole model with as many prompts in every block, all
taken in turns in one process. Random weights: latency does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import write_json
from apt_edge.runtime.machine import machine
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.parts import open_parts
from apt_edge.runtime.runner import TaskRunner
from apt_edge.runtime.statistics import LEAST_PAIRED
from apt_edge.runtime.tasks import task_of
from apt_edge.runtime.timing import Run, measure_interleaved, warm_up
from bench.numbers import compared, timed
from bench.taskmodels import TaskModels

CUTS, COUNTS = (6, 7, 8, 9, 10, 11), (1, 5, 20)
WHOLE = "whole model, one task, prompts in every block"
BOUND = "prompts.mode=bound"
# One task of N, as measured on hand-written prototypes of a ViT-S with 400 prompts: computed from trunk and branch.
PROTOTYPE = {
    6: (0.94, 0.58, 0.51),
    8: (0.92, 0.45, 0.36),
    9: (0.91, 0.38, 0.28),
    10: (0.90, 0.31, 0.20),
    11: (0.90, 0.25, 0.12),
}


def measure_trunk(
    out: Path, *, size: str, tokens: int, classes: int, cuts: Sequence[int], rounds: int, threads: int
) -> dict[str, Any]:
    """Measure and write one JSON file.

    Args:
        out: the file.
        size: of the backbone.
        tokens: prompts of a block.
        classes: of a task.
        cuts: first blocks with prompts.
        rounds: timed runs of each contender.
        threads: of the runtime.

    Returns:
        The arguments; `environment`; `whole`: a row of the reference; `latency`: a row for each cut and number of
        tasks, with `cost_a_task`, the ratio to the reference over the number of tasks, its interval, and the
        `prototype`'s; `equal`: whether each cut gives tasks the logits of its whole model, to the last bit.
    """
    environment = machine(threads)  # the load before our own
    with tempfile.TemporaryDirectory() as folder:
        models = TaskModels(size, tokens, 0, classes)
        whole = ModelDir.load(models.export(Path(folder) / "whole", BOUND))
        reference = TaskRunner(whole, open_parts(whole, threads), [task_of(models.pack(0), whole, "task 0")])
        runs: dict[str, Run] = {WHOLE: partial(_run, reference, models.clip)}
        equal = {}
        for cut in cuts:
            late = TaskModels(size, tokens, cut, classes)
            model = ModelDir.load(late.export(Path(folder) / str(cut), BOUND, f"split_at=[{cut}]"))
            runners = _runners(late, model, threads)
            for count, runner in runners.items():
                runs[_name(cut, count)] = partial(_run, runner, late.clip)
            equal[f"cut in front of block {cut}"] = _equal(model, late, runners[COUNTS[1]], threads)
        times = _times(runs, rounds)
        latency = [_row(cut, count, times) for cut in cuts for count in COUNTS]
    result = {
        "size": size,
        "tokens": tokens,
        "classes": classes,
        "cuts": list(cuts),
        "rounds": rounds,
        "threads": threads,
        "environment": environment,
        "whole": {"contender": WHOLE, **timed(times[WHOLE], 1)},
        "latency": latency,
        "equal": equal,
    }
    write_json(out, result)
    return result


def _runners(models: TaskModels, model: ModelDir, threads: int) -> dict[int, TaskRunner]:
    """Runners of 1, 5 and 20 tasks on the same sessions."""
    parts = open_parts(model, threads)
    tasks = [task_of(models.pack(number), model, f"task {number}") for number in range(max(COUNTS))]
    return {count: TaskRunner(model, parts, tasks[:count]) for count in COUNTS}


def _equal(model: ModelDir, models: TaskModels, runner: TaskRunner, threads: int) -> bool:
    """Whether every task gets the logits of the whole graph; raises GateError when all tasks have the same ones."""
    whole = ModelDir(model.path, {**model.facts, "parts": []}, model.clip, model.labels)
    tasks = [task_of(models.pack(number), whole, name) for number, name in enumerate(runner.tasks)]
    expected = TaskRunner(whole, open_parts(whole, threads), tasks).logits(models.clip)
    if len({logits.tobytes() for logits in expected.values()}) < len(expected):
        raise GateError("two tasks have the same logits: their prompts do not reach the attention")
    found = runner.logits(models.clip)
    return all(np.array_equal(found[name], logits) for name, logits in expected.items())


def _times(runs: dict[str, Run], rounds: int) -> dict[str, np.ndarray]:
    warm_up({name: run for name, run in runs.items() if name == WHOLE or name.endswith(_tasks(1))}, 2, 4)
    with tqdm(total=rounds, desc="latency", unit="round", disable=None) as bar:
        return measure_interleaved(runs, rounds, 0, progress=lambda done: bar.update())


def _row(cut: int, count: int, times: dict[str, np.ndarray]) -> dict[str, Any]:
    name = _name(cut, count)
    row: dict[str, Any] = {"contender": name, "baseline": WHOLE, "cut": cut, "tasks": count}
    row |= {**timed(times[name], 1), **compared(times, name, WHOLE)}
    costs = {f"cost_a_task{end}": row[f"latency_ratio{end}"] / count for end in ("", "_low", "_high")}
    return {**row, **costs, "prototype": dict(zip(COUNTS, PROTOTYPE.get(cut, ()), strict=False)).get(count)}


def _name(cut: int, count: int) -> str:
    return f"prompts from block {cut} on, {_tasks(count)}"


def _tasks(count: int) -> str:
    return f"{count} task{'s' if count > 1 else ''}"


def _run(runner: TaskRunner, clip_TSSC: np.ndarray) -> None:
    runner.logits(clip_TSSC)


def describe(result: dict[str, Any]) -> str:
    """The costs as a Markdown table, a line a cut, the prototype's in brackets."""
    rows = {(row["cut"], row["tasks"]): row for row in result["latency"]}
    heads = ["prompts from block", *(f"cost a task, {_tasks(count)}" for count in COUNTS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for cut in result["cuts"]:
        cells = [_cost(rows[cut, count]) for count in COUNTS]
        lines.append(f"| {' | '.join([str(cut), *cells])} |")
    lines.append(f"\n1 is {result['whole']['latency_ms_median']:.1f} ms: {WHOLE}; in brackets a prototype's cost")
    lines += [f"{what}: {'equal' if equal else 'NOT equal'} to the last bit" for what, equal in result["equal"].items()]
    return "\n".join(lines)


def _cost(row: dict[str, Any]) -> str:
    known = "" if row["prototype"] is None else f" ({row['prototype']:.2f})"
    return f"{row['cost_a_task']:.3f} [{row['cost_a_task_low']:.3f}, {row['cost_a_task_high']:.3f}]{known}"


def check(result: dict[str, Any]) -> None:
    """Raises GateError when a split model gives other logits than the whole one."""
    if wrong := [what for what, equal in result["equal"].items() if not equal]:
        raise GateError(
            "parts give other logits than the whole model", found=", ".join(wrong), fix="report this as a bug"
        )


def main() -> None:
    """Measure what a task costs when all share the first blocks; exit code 4 when logits differ from the whole's."""
    parser = argparse.ArgumentParser(prog="bench.trunk", description=main.__doc__)
    parser.add_argument("out", type=Path, help="file for the result, JSON")
    parser.add_argument("--size", default="vit-small", help="of the backbone (default vit-small)")
    parser.add_argument("--tokens", type=int, default=400, help="prompts of a block (default 400)")
    parser.add_argument("--classes", type=int, default=10, help="of a task (default 10)")
    parser.add_argument("--cuts", type=int, nargs="+", default=CUTS, help="first blocks with prompts (default 6 to 11)")
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each contender (default 10)")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = vars(parser.parse_args())
    as_json = args.pop("json")
    if args["rounds"] < LEAST_PAIRED:
        raise ConfigError("there is too little to measure", fix=f"give --rounds {LEAST_PAIRED} or more")
    result = measure_trunk(**args)
    print(json.dumps(result, indent=2) if as_json else describe(result))
    check(result)


if __name__ == "__main__":
    run_tool(main, "bench.trunk")
