"""What the runtime does on a GPU without PyTorch: pinned memory, graphs and pointers through its own CUDA backends.

Copies on the device stand for kernels, so that no TensorRT is needed. With a model whose engine was built on this
machine (`--model`) the engine itself is measured as well, after its golden clips have passed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import GateError, MissingDependency
from apt_edge.runtime.cuda.backend import CudaBackend
from apt_edge.runtime.cuda.find import BACKENDS, open_cuda
from apt_edge.runtime.cuda.owned import Owned
from apt_edge.runtime.machine import device_name, machine
from apt_edge.runtime.model_dir import INPUT, OUTPUT, ModelDir
from apt_edge.runtime.open_engine import open_engine
from apt_edge.runtime.selftest import golden, session_selftest
from apt_edge.runtime.tensorrt import TensorRtSession
from apt_edge.runtime.timing import Run, wall_clock
from apt_edge.tables import Row
from bench.gpu.record import Record, Settings
from bench.gpu.rounds import measure, statistics

CLIP_BYTES = 16 * 224 * 224 * 3
PROMPT_BYTES = 2 * 12 * 400 * 768 * 2  # keys and values of ViT-B with 400 prompts a block, in float16
LAUNCHES, LAUNCH_BYTES = 100, 1 << 16  # about as many as an engine of ViT-B has kernels
TASKS = 8


def run(settings: Settings, record: Record) -> None:
    """Every group through every backend that is installed; nothing on a device without graphs."""
    if not settings.graphs:
        print("  runtime needs a GPU: left out", file=sys.stderr, flush=True)
        return
    with record.step("runtime"):
        found = [*backends()]
        left = len(found) * len(GROUPS) + (settings.model is not None)
        for cuda in found:
            for title in GROUPS:
                with record.step(f"runtime {title}, {cuda.name}"):
                    record.add("runtime", group(cuda, title, settings, record.share(left)))
                left -= 1
    if settings.model is not None:
        with record.step(f"runtime engine {settings.model}"):
            record.add("runtime", engine_group(settings.model, settings, record.share(1)))


def backends() -> Iterator[CudaBackend]:
    """Those that are installed; raises MissingDependency when none is."""
    found = 0
    for name in BACKENDS:
        try:
            yield open_cuda(name)
            found += 1
        except MissingDependency:
            continue
    if not found:
        open_cuda()


def group(cuda: CudaBackend, title: str, settings: Settings, seconds: float) -> list[Row]:
    """Rows of one group of `GROUPS`.

    Raises:
        AptEdgeError: the budget is too short, or CUDA fails.
        GateError: something else was computed than was asked for.
    """
    with cuda.current():
        owned = Owned(cuda)
        try:
            contenders = GROUPS[title](owned)
            return rows(contenders, {"suite": f"runtime {title}", "session": cuda.name}, settings, seconds)
        finally:
            owned.release()


def transfers(owned: Owned) -> dict[str, Run]:
    """A clip to the device: from pinned memory, from any memory, and from any memory by way of pinned memory."""
    cuda, (address, staging) = owned.cuda, owned.buffer(CLIP_BYTES)
    pageable = np.random.default_rng(0).integers(0, 256, CLIP_BYTES, np.uint8)
    np.copyto(staging, pageable)

    def upload(source: np.ndarray) -> None:
        cuda.upload(address, source, owned.stream)
        cuda.synchronize(owned.stream)

    def staged() -> None:
        np.copyto(staging, pageable)
        upload(staging)

    contenders: dict[str, Run] = {
        "pinned": lambda: upload(staging),
        "pageable": lambda: upload(pageable),
        "pageable by way of pinned": staged,
    }
    for name, go in contenders.items():
        back = np.zeros_like(pageable)
        cuda.upload(address, np.zeros(CLIP_BYTES, np.uint8), owned.stream)
        go()
        cuda.download(back, address, owned.stream)
        cuda.synchronize(owned.stream)
        _check(np.array_equal(back, pageable), f"a clip from {name} memory does not arrive")
    return contenders


def launches(owned: Owned) -> dict[str, Run]:
    """A hundred launches: as one graph, and one by one."""
    cuda, size = owned.cuda, LAUNCHES * LAUNCH_BYTES
    source, target = owned.malloc(size), owned.malloc(size)

    def each() -> None:
        for offset in range(0, size, LAUNCH_BYTES):
            cuda.copy(target + offset, source + offset, LAUNCH_BYTES, owned.stream)

    owned.graphs[None, target] = graph = cuda.capture(owned.stream, each)
    values, back = np.random.default_rng(0).integers(0, 256, size, np.uint8), np.zeros(size, np.uint8)
    cuda.upload(source, values, owned.stream)
    cuda.launch(graph, owned.stream)
    cuda.download(back, target, owned.stream)
    cuda.synchronize(owned.stream)
    _check(np.array_equal(back, values), "a graph does not do what was captured")
    waited = _waited(owned)
    return {"graph": waited(lambda: cuda.launch(graph, owned.stream)), "one by one": waited(each)}


def switches(owned: Owned) -> dict[str, Run]:
    """Another task in each run: its own graph, which has its pointers, or a copy to where the one graph reads."""
    cuda = owned.cuda
    tasks, static = [owned.malloc(PROMPT_BYTES) for _ in range(TASKS)], owned.malloc(PROMPT_BYTES)
    (result, back), (_, host) = owned.buffer(LAUNCH_BYTES), owned.buffer(PROMPT_BYTES)

    def graph_of(block: int) -> int:
        last = block + PROMPT_BYTES - LAUNCH_BYTES
        graph = cuda.capture(owned.stream, lambda: cuda.copy(result, last, LAUNCH_BYTES, owned.stream))
        owned.graphs[None, block] = graph
        return graph

    pointers, copied = [graph_of(block) for block in tasks], graph_of(static)
    for number, (block, graph) in enumerate(zip(tasks, pointers, strict=True)):
        cuda.upload(block, np.full(PROMPT_BYTES, number, np.uint8), owned.stream)
        cuda.synchronize(owned.stream)
        for source in (None, block):
            if source is not None:
                cuda.copy(static, source, PROMPT_BYTES, owned.stream)
            cuda.launch(graph if source is None else copied, owned.stream)
            cuda.download(back, result, owned.stream)
            cuda.synchronize(owned.stream)
            _check(bool((back == number).all()), f"task {number} is not the one that ran")
    graphs, blocks, waited = cycle(pointers), cycle(tasks), _waited(owned)

    def from_device() -> None:
        cuda.copy(static, next(blocks), PROMPT_BYTES, owned.stream)
        cuda.launch(copied, owned.stream)

    def from_host() -> None:
        cuda.upload(static, host, owned.stream)
        cuda.launch(copied, owned.stream)

    return {
        "same task": waited(lambda: cuda.launch(pointers[0], owned.stream)),
        "pointer": waited(lambda: cuda.launch(next(graphs), owned.stream)),
        "copy on the device": waited(from_device),
        "copy from the host": waited(from_host),
    }


# Title -> what it compares, the first of them the baseline.
GROUPS: dict[str, Callable[[Owned], dict[str, Run]]] = {
    "transfers": transfers,
    "launches": launches,
    "switches": switches,
}


def engine_group(path: Path, settings: Settings, seconds: float) -> list[Row]:
    """Rows of an engine, host arrays to host arrays: its graph, launches one by one, tasks by pointer and fed.

    Raises:
        GateError: its golden clips, or another way of running, give other logits.
        AptEdgeError: it cannot be opened, or the budget is too short.
    """
    model = ModelDir.load(path)
    session_selftest(model)
    session = open_engine(model, str(model.target["runtime"]))
    plain = open_engine(model, str(model.target["runtime"]), graphs=False)
    try:
        contenders = engine_contenders(session, plain, model.feeds(session.inputs, golden(model)[0][0]))
        facts = {"suite": f"runtime {model.path.resolve().name}", "session": str(model.target["runtime"])}
        return rows(contenders, facts, settings, seconds)
    finally:
        session.close()
        plain.close()


def engine_contenders(session: TensorRtSession, plain: TensorRtSession, feeds: dict[str, np.ndarray]) -> dict[str, Run]:
    """Ways to run an engine, after each has given every task the logits that `plain`, without graphs, gives it.

    Raises:
        GateError: it has not, two tasks have the same logits, or the engine cannot be captured.
    """
    clip, prompts = {INPUT: feeds[INPUT]}, {name: array for name, array in feeds.items() if name != INPUT}
    tasks = scaled(prompts)
    wanted = [plain.run({**clip, **task})[OUTPUT] for task in tasks]
    _check(len({logits.tobytes() for logits in wanted}) == len(tasks), "two tasks have the same logits")
    held, own = [session.hold(task) for task in tasks], plain.hold(tasks[0])
    ways: dict[str, Callable[[int], dict[str, np.ndarray]]] = {
        "graph": lambda task: session.run(clip, held[task]),
        "prompts fed": lambda task: session.run({**clip, **tasks[task]}),
    }
    for name, way in ways.items():
        for task in 3 * [*range(len(tasks))]:  # launched, captured, replayed
            _check(np.array_equal(way(task)[OUTPUT], wanted[task]), f"{name} gives task {task} other logits")
    _check(np.array_equal(plain.run(clip, own)[OUTPUT], wanted[0]), "values that are held give other logits")
    _check(session.graphs, "the engine cannot be captured")
    contenders: dict[str, Callable[[], Any]] = {
        "graph": lambda: session.run(clip, held[0]),
        "one by one": lambda: plain.run(clip, own),
    }
    if prompts:
        turns = cycle(held)
        contenders["pointer"] = lambda: session.run(clip, next(turns))
        contenders["prompts fed"] = lambda: session.run(feeds)
    return {name: _without_result(go) for name, go in contenders.items()}


def scaled(prompts: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Prompts of `TASKS` tasks: those given, and the same ones ever smaller; one task where there are none."""
    factors = 1 - np.arange(TASKS if prompts else 1) / (2 * TASKS)
    return [{name: (array * factor).astype(array.dtype) for name, array in prompts.items()} for factor in factors]


def rows(contenders: dict[str, Run], facts: dict[str, Any], settings: Settings, seconds: float) -> list[Row]:
    """Measured in turns; the first contender is the baseline."""
    times = measure(contenders, settings.rounds, seconds, wall_clock)
    environment = machine()
    facts |= {"method": "", "batch": 1, "clock": "host", "environment": environment}
    facts["device"] = device_name(environment, gpu=True)
    baseline = next(iter(contenders))
    return [{**facts, "contender": name, **statistics(times, name, baseline, batch=1)} for name in contenders]


def _waited(owned: Owned) -> Callable[[Run], Run]:
    def wrap(give: Run) -> Run:
        def go() -> None:
            give()
            owned.cuda.synchronize(owned.stream)

        return go

    return wrap


def _without_result(go: Callable[[], Any]) -> Run:
    def run_once() -> None:
        go()

    return run_once


def _check(holds: bool, wrong: str) -> None:
    if not holds:
        raise GateError(wrong)
