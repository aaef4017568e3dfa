"""Memory of many tasks on one model. numpy and the runtime alone: nothing else may grow in that process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.pack import PromptPack
from apt_edge.runtime import memory
from apt_edge.runtime.bank import PromptBank
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.sessions import open_session
from apt_edge.runtime.statistics import summarise
from apt_edge.runtime.tasks import task_of
from apt_edge.runtime.timing import wall_clock


def memory_of_tasks(model_path: Path, files: Sequence[Path], many: int, threads: int) -> dict[str, Any]:
    """Load tasks into this process, which should have run none, and watch its resident memory.

    Args:
        model_path: a bound model.
        files: packs of several tasks.
        many: how many tasks are loaded in the end, from these files in turn.
        threads: of the runtime.

    Returns:
        `mb_of_several`: what the tasks of `files` take beyond the first one, after each has run; `mb_a_task`: what each
        of those loaded after them takes; both None where the system does not tell. `values_mb`: the arrays of a task;
        `load_ms`, `switch_ms`: over all `many`; `equal`: whether the first task gave its logits again in the end.
    """
    model = ModelDir.load(model_path)
    bank, shape = PromptBank(model, open_session(model, threads)), (*model.clip.shape[1:], 3)
    clip, random = np.zeros(shape, np.uint8), np.random.default_rng(0)

    def load(number: int) -> float:
        return wall_clock(partial(bank.load, f"task {number}", files[number % len(files)]))

    def run(number: int) -> None:
        bank.switch(f"task {number}")
        bank.run(random.integers(0, 256, shape, np.uint8))

    loads = [load(0)]
    run(0)  # the first run takes what every run needs
    first = bank.run(clip)
    resident = [_resident()]
    for number in range(1, len(files)):
        loads.append(load(number))
        run(number)
    resident.append(_resident())
    loads += [load(number) for number in range(len(files), many)]
    resident.append(_resident())
    switches = [wall_clock(partial(bank.switch, f"task {number}")) for number in reversed(range(many))]
    values = task_of(PromptPack.load(files[0]), model, "").values.values()
    several, further = (_grown(*pair) for pair in pairwise(resident))
    return {
        "mb_of_several": several,
        "mb_a_task": None if further is None else further / (many - len(files)),
        "values_mb": sum(array.nbytes for array in values) / 1e6,
        "load_ms": summarise(np.array(loads)),
        "switch_ms": summarise(np.array(switches)),
        "equal": bool(np.array_equal(bank.run(clip), first)),
    }


def _resident() -> int | None:
    """What is resident, without what has been freed."""
    memory.give_back()
    return memory.resident()


def _grown(before: int | None, after: int | None) -> float | None:
    return None if before is None or after is None else (after - before) / 1e6
