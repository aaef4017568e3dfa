"""Latency and memory: no prompts, APT, VPT-deep as tokens and folded, in turns on one GPU, as CUDA graphs and eagerly.

Times are the device's, of the model alone: the clips already lie in its memory, in the model's precision.
"""

from __future__ import annotations

from typing import Any

from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.runtime.agreement import agreement, failures
from apt_edge.runtime.energy import find_meter
from apt_edge.tables import Row
from bench.gpu.clips import DESCRIPTION, drawn_clips
from bench.gpu.models import Built, build, cast, contenders
from bench.gpu.record import Record, Settings
from bench.gpu.rounds import measure, statistics
from bench.gpu.running import (
    Running,
    circumstances,
    clock_name,
    device_clock,
    energy,
    hardware,
    peak_mb,
    session_name,
)

BASELINE = "none"
EAGER = " eager"
ENERGY_SHARE = 0.25  # of a group's seconds
# Of a graph against the same model run eagerly; classes of random weights lie too close to compare first labels.
REPLAY = {"max_abs": 5e-3, "top1_agreement": 0.0, "kl": 1e-4}


def run(settings: Settings, record: Record) -> None:
    """Every size and batch of the settings, one group of rows each."""
    groups = [(size, batch) for size in settings.sizes for batch in settings.batches]
    models: dict[str, list[Built]] = {}
    for index, (size, batch) in enumerate(groups):
        with record.step(f"latency {size}, batch {batch}"):
            if size not in models:
                models = {size: build_all(size, settings)}  # the size before is given up
            rows, complaints = group(size, batch, models[size], settings, record.share(len(groups) - index))
            record.add("rows", rows)
            for complaint in complaints:
                record.fail(f"latency {size}, batch {batch}", complaint, gate=True)


def build_all(size: str, settings: Settings) -> list[Built]:
    """All contenders of one size on the device, in its precision; they share one backbone with random weights."""
    vit = random_backbone(size)
    models = [build(vit, contender) for contender in contenders(settings.tokens)]
    for model in models:  # after all of them were folded, in float32
        cast(model.module, settings.dtype).to(settings.place)
    return models


def start(models: list[Built], batch: int, settings: Settings) -> dict[str, Running]:
    """Every contender over the same clips, as a graph; for single clips no prompts and one APT without graphs too."""
    clips = drawn_clips(models[0].method.config, batch)[0].to(settings.place, settings.dtype)
    running = {model.contender.name: Running(model.module, clips, settings.graphs) for model in models}
    if settings.graphs and batch == 1:
        for name in (BASELINE, f"APT-{settings.some_tokens}"):
            running[f"{name}{EAGER}"] = Running(running[name].model, clips, graph=False)
    return running


def group(
    size: str, batch: int, models: list[Built], settings: Settings, seconds: float
) -> tuple[list[Row], list[str]]:
    """Rows of one size and batch, and which of its graphs compute something else than their models.

    Raises:
        AptEdgeError: the budget is too short.
    """
    running = start(models, batch, settings)
    built = {model.contender.name: model for model in models}
    memory = {name: peak_mb(model.module, running[BASELINE].clips) for name, model in built.items()}
    clock = device_clock(settings.place)
    times = measure(running, settings.rounds, (1 - ENERGY_SHARE) * seconds, clock)
    environment = circumstances(settings.place)
    spent = energy(running, find_meter(settings.graphs), ENERGY_SHARE * seconds)
    logits = running[BASELINE].result()
    rows = []
    for name, session in running.items():
        model = built[name.removesuffix(EAGER)]
        joules, peak = spent[name], memory[model.contender.name]
        facts = {
            "kind": "measured",
            "suite": f"gpu-{size}",
            "contender": name,
            "session": session_name(settings.place, session.graph is not None),
            "clock": clock_name(clock),
            "built": "apt-edge",
            "device": hardware(environment),
            "mode": "single-stream" if batch == 1 else "offline",
            "batch": batch,
            "precision": settings.precision,
        }
        measured = {
            "agreement": agreement(logits, session.result()) if model.contender.name == BASELINE else None,
            "memory": {"rss_mb": None, "activation_mb": None, "gpu_mb": peak if settings.graphs else None},
            "energy": joules and {"joules_per_clip": joules["joules"] / batch, "source": joules["source"]},
            "environment": environment,
        }
        rows.append(facts | described(model, models[0], name) | measured | statistics(times, name, BASELINE, batch))
    return rows, replay_complaints(running) if settings.graphs else []


def replay_complaints(running: dict[str, Running]) -> list[str]:
    """The graphs that do not give what their models give."""
    found = []
    for name, session in running.items():
        expected = Running(session.model, session.clips, graph=False).result()
        if broken := failures(agreement(expected, session.result()), REPLAY):
            found.append(f"the graph of {name} does not compute what the model computes: {'; '.join(broken)}")
    return found


def described(model: Built, baseline: Built, name: str) -> dict[str, Any]:
    """What a row says of its model; rows of a series are points of a plot over the number of prompts."""
    contender = model.contender
    swept = contender.series and contender.name == name
    return {
        "method": contender.method,
        "tokens": contender.tokens,
        "gmacs": model.gmacs,
        "gmacs_ratio": model.gmacs / baseline.gmacs,
        "trainable_parameters": model.trainable_parameters,
        "accuracy": None,
        "stages": None,
        "point": {"axis": "tokens", "value": contender.tokens, "series": contender.series} if swept else None,
        "clips": DESCRIPTION,
        "model_sha256": model.sha256,
        "pack_sha256": None,
    }
