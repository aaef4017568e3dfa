"""Many tasks on one model: `python -m bench.bank OUT.json`. What a bound task, a switch and one more task cost.

A backbone with random weights, and tasks with random prompts: neither latency nor memory depends on their values. The
latencies are taken in turns in one process, the memory in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import write_json
from apt_edge.runtime.bank import PromptBank
from apt_edge.runtime.machine import machine
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.sessions import open_session
from apt_edge.runtime.statistics import LEAST_PAIRED, summarise
from apt_edge.runtime.timing import Run, measure_interleaved, wall_clock
from bench.bankmemory import memory_of_tasks
from bench.numbers import compared, interval, timed
from bench.taskmodels import TaskModels

WARM_UP = 2
SEVERAL = 20  # tasks in memory at once, and those that a contender goes through
FOLDED, BOUND, SWITCHED, FREE = "folded", "bound", "bound, another task every run", "bound, counts and classes free"
CHANGES = {
    FOLDED: (),
    BOUND: ("prompts.mode=bound",),
    FREE: ("prompts.mode=bound", "prompts.max_count={tokens}", "prompts.max_classes={classes}"),
}
# What is promised of a ViT-S with 400 prompts a block.
MOST_MB, MOST_MB_OF_SEVERAL, MOST_RATIO, MOST_SWITCH_MS = 2.5, 300, 1.01, 1.0


def measure_bank(
    out: Path, *, size: str, tokens: int, classes: int, many: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Measure and write one JSON file.

    Args:
        out: the file.
        size: of the backbone.
        tokens: prompts of a block.
        classes: of a task.
        many: tasks that are loaded in the end.
        rounds: timed runs of each contender.
        threads: of the runtime.

    Returns:
        The arguments; `environment`; `latency`: a row a contender, with ratios to the folded model and, where it is
        switched, to the bound one; `switch_ms`: of switches alone; `memory`: of `memory_of_tasks`; `file_mb`: a task's
        file in half precision; `equal`: what was compared to the last bit, and whether it was equal.
    """
    environment = machine(threads)  # the load before our own
    with tempfile.TemporaryDirectory() as folder:
        root, models = Path(folder), TaskModels(size, tokens, 0, classes)
        for name, changes in CHANGES.items():
            models.export(root / name, *(change.format(tokens=tokens, classes=classes) for change in changes))
        files = [root / f"{number}.safetensors" for number in range(SEVERAL)]
        for number, file in enumerate(files):
            models.pack(number).save(file, half=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            taken = process.submit(memory_of_tasks, root / BOUND, files, many, threads).result()
        result = {
            "size": size,
            "tokens": tokens,
            "classes": classes,
            "many": many,
            "rounds": rounds,
            "threads": threads,
            "environment": environment,
            **_latencies(root, models, files, rounds, threads),
            "memory": taken,
            "file_mb": files[0].stat().st_size / 1e6,
        }
    result["equal"][f"a task before and after {many - 1} others were loaded"] = taken.pop("equal")
    write_json(out, result)
    return result


def _latencies(root: Path, models: TaskModels, files: Sequence[Path], rounds: int, threads: int) -> dict[str, Any]:
    """`latency`, `switch_ms` and `equal` of the result."""
    banks, clip = {}, models.clip
    for name in CHANGES:
        model = ModelDir.load(root / name)
        session = open_session(model, threads)
        banks[name] = PromptBank(model, session)
        if name == BOUND:
            banks[SWITCHED] = PromptBank(model, session)  # the same memory: nothing but the switch differs
    for name in (BOUND, SWITCHED, FREE):
        banks[name].load("task 0", models.pack(0))
        banks[name].switch("task 0")
    names = cycle([f"task {number}" for number in range(len(files))])
    for number, file in enumerate(files[1:], 1):
        banks[SWITCHED].load(f"task {number}", file)
    folded, bound, first, free = (banks[name].run(clip) for name in (FOLDED, BOUND, SWITCHED, FREE))
    banks[SWITCHED].switch("task 1")
    other = banks[SWITCHED].run(clip)
    banks[SWITCHED].switch("task 0")
    equal = {
        "folded and bound": np.array_equal(folded, bound),
        "folded, and bound with free axes": np.array_equal(folded, free),
        "a task before and after another one": np.array_equal(first, banks[SWITCHED].run(clip)),
    }
    if np.array_equal(first, other):
        raise GateError("two tasks have the same logits: a switch does not reach the attention")

    def switched() -> None:
        banks[SWITCHED].switch(next(names))
        banks[SWITCHED].run(clip)

    contenders: dict[str, Run] = {SWITCHED: switched}
    for name in CHANGES:
        contenders[name] = partial(_run, banks[name], clip)
    with tqdm(total=rounds, desc="latency", unit="round", disable=None) as bar:
        times = measure_interleaved(contenders, rounds, WARM_UP, progress=lambda done: bar.update())
    rows = [
        {"contender": name, "baseline": base, **timed(times[name], 1), **compared(times, name, base)}
        for name, base in ((FOLDED, FOLDED), (BOUND, FOLDED), (FREE, FOLDED), (SWITCHED, BOUND))
    ]
    alone = [wall_clock(partial(banks[SWITCHED].switch, next(names))) for _ in range(1000)]
    return {"latency": rows, "switch_ms": summarise(np.array(alone)), "equal": {k: bool(v) for k, v in equal.items()}}


def _run(bank: PromptBank, clip_TSSC: np.ndarray) -> None:
    bank.run(clip_TSSC)


def describe(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    rows, taken = {row["contender"]: row for row in result["latency"]}, result["memory"]
    lines = [
        f"{name}: {row['latency_ms_median']:.1f} ms, {interval(row)} of {row['baseline']}" for name, row in rows.items()
    ]
    lines.append(f"a switch alone: {result['switch_ms']['median']:.4f} ms, {result['switch_ms']['p99']:.4f} ms (p99)")
    lines.append(f"a task: {result['file_mb']:.2f} MB on disk in half precision, arrays of {taken['values_mb']:.2f} MB")
    if taken["mb_a_task"] is not None:
        lines.append(
            f"memory: {SEVERAL} tasks {taken['mb_of_several']:.1f} MB over one, {taken['mb_a_task']:.3f} MB each"
        )
    lines.append(
        f"{result['many']} tasks: loaded in {taken['load_ms']['median']:.1f} ms each, switched in "
        f"{taken['switch_ms']['median']:.4f} ms each"
    )
    lines += [f"{what}: {'equal' if equal else 'NOT equal'} to the last bit" for what, equal in result["equal"].items()]
    return "\n".join(lines)


def check(result: dict[str, Any]) -> None:
    """Raises GateError for what is not as promised, or cannot be told."""
    switched, taken = next(row for row in result["latency"] if row["contender"] == SWITCHED), result["memory"]
    broken = [f"not equal: {what}" for what, equal in result["equal"].items() if not equal]
    if switched["latency_ratio_high"] > MOST_RATIO:
        vague = switched["latency_ratio_low"] <= MOST_RATIO
        broken.append(f"switching: {interval(switched)}, {MOST_RATIO} allowed{', cannot tell' if vague else ''}")
    bounds = {
        "ms of a switch (p99)": (result["switch_ms"]["p99"], MOST_SWITCH_MS),
        "ms of a switch among many (p99)": (taken["switch_ms"]["p99"], MOST_SWITCH_MS),
        "MB a task": (taken["mb_a_task"], MOST_MB),
        f"MB of {SEVERAL} tasks over one": (taken["mb_of_several"], MOST_MB_OF_SEVERAL),
    }
    broken += [f"{found:.4g} {what}, {most} allowed" for what, (found, most) in bounds.items() if (found or 0) > most]
    if broken:
        raise GateError(
            "many tasks on one model cost more than is promised",
            found="; ".join(broken),
            fix="stop what else is running and repeat with more --rounds; if it stays, something has become worse",
        )


def main() -> None:
    """Measure what bound tasks, switches and further tasks cost; exit code 4 when that is more than is promised."""
    parser = argparse.ArgumentParser(prog="bench.bank", description=main.__doc__)
    parser.add_argument("out", type=Path, help="file for the result, JSON")
    parser.add_argument("--size", default="vit-small", help="of the backbone (default vit-small)")
    parser.add_argument("--tokens", type=int, default=400, help="prompts of a block (default 400)")
    parser.add_argument("--classes", type=int, default=10, help="of a task (default 10)")
    parser.add_argument("--many", type=int, default=1000, help="tasks that are loaded in the end (default 1000)")
    parser.add_argument("--rounds", type=int, default=120, help="timed runs of each contender (default 120)")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = vars(parser.parse_args())
    as_json = args.pop("json")
    if args["rounds"] < LEAST_PAIRED or args["many"] <= SEVERAL:
        raise ConfigError(
            "there is too little to measure",
            found=f"{args['rounds']} rounds, {args['many']} tasks",
            fix=f"give --rounds {LEAST_PAIRED} or more and --many above {SEVERAL}",
        )
    result = measure_bank(**args)
    print(json.dumps(result, indent=2) if as_json else describe(result))
    check(result)


if __name__ == "__main__":
    run_tool(main, "bench.bank")
