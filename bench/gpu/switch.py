"""Switching between tasks on one backbone: another CUDA graph bound to that task's prompts, or a copy into one graph's.

Each task has its own prompts; the backbone and the head are shared. On a device without graphs modules take their part.
"""

from __future__ import annotations

from itertools import cycle

import torch
from torch import Tensor

from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import ExtraKV, Head, Vit
from apt_edge.errors import GateError
from apt_edge.runtime.agreement import agreement, failures
from apt_edge.runtime.timing import Run
from apt_edge.tables import Row
from bench.gpu.clips import drawn_clips
from bench.gpu.models import Contender, build, cast
from bench.gpu.record import Record, Settings
from bench.gpu.rounds import measure, statistics
from bench.gpu.running import (
    Running,
    circumstances,
    clock_name,
    device_clock,
    hardware,
    session_name,
)

TASKS = 8
METHODS = ("apt", "vpt-deep")  # a prompt for all heads of a block, a prompt for each
BASELINE = "same task"
WIDE = 2.0  # standard deviation of the prompts, as tuned ones have: each task has logits of its own
SAME = {"max_abs": 1e-3, "top1_agreement": 0.0, "kl": 1e-5}  # of one graph against another one of the same shapes


def run(settings: Settings, record: Record) -> None:
    """The largest size of the settings, which are in rising order, with each method."""
    size = settings.sizes[-1]
    for index, method in enumerate(METHODS):
        with record.step(f"switch {size}, {method}"):
            record.add("switch", group(size, method, settings, record.share(len(METHODS) - index)))


def group(size: str, method: str, settings: Settings, seconds: float) -> list[Row]:
    """Rows of one method: no switch, by pointer, by a copy on the device, by a copy from the host.

    Raises:
        AptEdgeError: the budget is too short.
        GateError: the ways do not give the same logits.
    """
    vit, tokens = random_backbone(size), settings.some_tokens
    built = build(vit, Contender(f"{method}-{tokens}", method, {"tokens": tokens}))
    assert isinstance(built.module, FoldedModel)
    head, extra = built.module.head, built.module.extra
    cast(built.module, settings.dtype).to(settings.place)
    flats = [task.to(settings.place, settings.dtype) for task in task_prompts(extra)]
    clips = drawn_clips(vit.config, 1)[0].to(settings.place, settings.dtype)

    def bound(flat: Tensor) -> Running:
        return Running(with_prompts(vit, head, extra, flat), clips, settings.graphs)

    pointers, static = [bound(flat) for flat in flats], flats[0].clone()
    copied = bound(static)
    check(pointers, copied, static, flats)
    contenders: dict[str, Run] = {
        BASELINE: pointers[0],
        "pointer": by_pointer(pointers),
        "copy on the device": by_copy(copied, static, flats),
    }
    if settings.graphs:
        contenders["copy from the host"] = by_copy(copied, static, [flat.cpu().pin_memory() for flat in flats])
    clock = device_clock(settings.place)
    times = measure(contenders, settings.rounds, seconds, clock)
    environment = circumstances(settings.place)
    facts = {
        "size": size,
        "method": method,
        "tokens": tokens,
        "tasks": TASKS,
        "prompt_bytes": static.numel() * static.element_size(),
        "session": session_name(settings.place, settings.graphs),
        "clock": clock_name(clock),
        "device": hardware(environment),
        "precision": settings.precision,
        "environment": environment,
    }
    rows = []
    for name in contenders:
        numbers = statistics(times, name, BASELINE, batch=1)
        more = (numbers["latency_ratio"] - 1) * statistics(times, BASELINE, BASELINE, batch=1)["latency_ms_median"]
        rows.append({**facts, "contender": name, "switch_ms": more, **numbers})
    return rows


def task_prompts(extra: dict[int, ExtraKV]) -> list[Tensor]:
    """For each task all keys and values in one piece, as `with_prompts` cuts it; random, other ones for each task."""
    length = sum(kv.key.numel() + kv.value.numel() for kv in extra.values())
    draws = torch.Generator().manual_seed(0)
    return [WIDE * torch.randn(length, generator=draws) for _ in range(TASKS)]


def with_prompts(vit: Vit, head: Head, extra: dict[int, ExtraKV], flat: Tensor) -> FoldedModel:
    """A model whose constants are views of `flat`: what is written there is what its attention reads."""
    views: dict[int, ExtraKV] = {}
    offset = 0
    for block, kv in extra.items():
        pieces = []
        for shape in (kv.key.shape, kv.value.shape):
            pieces.append(flat[offset : offset + shape.numel()].view(shape))
            offset += shape.numel()
        views[block] = ExtraKV(*pieces)
    return FoldedModel(vit, head, views).eval()


def by_pointer(pointers: list[Running]) -> Run:
    """Each run is the next task's own graph."""
    tasks = cycle(pointers)
    return lambda: next(tasks)()


def by_copy(copied: Running, static: Tensor, sources: list[Tensor]) -> Run:
    """Each run copies the next task's prompts to where the one graph reads them, and runs it."""
    tasks = cycle(sources)

    def switch_and_run() -> None:
        static.copy_(next(tasks), non_blocking=True)
        copied()

    return switch_and_run


def check(pointers: list[Running], copied: Running, static: Tensor, flats: list[Tensor]) -> None:
    """Raises GateError unless both ways give each task its own logits."""
    seen = []
    for task, (pointer, flat) in enumerate(zip(pointers, flats, strict=True)):
        static.copy_(flat)
        expected, found = pointer.result(), copied.result()
        if broken := failures(agreement(expected, found), SAME):
            raise GateError(f"task {task} has other logits after a copy than by its pointer", found="; ".join(broken))
        seen.append(expected.tobytes())
    if len(set(seen)) < len(seen):
        raise GateError("two tasks have the same logits: a switch does not reach the attention")
