"""Time and memory of a training step: full tuning, APT, VPT-deep, AdaptFormer, in turns on one GPU.

As `bench.steps` on a CPU, with the products of the forward pass in half precision (autocast) and float32 weights.
"""

from __future__ import annotations

from typing import Any

import torch

from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel
from apt_edge.runtime.timing import wall_clock
from apt_edge.tables import Row
from bench.gpu.models import CLASSES, SEED
from bench.gpu.record import Record, Settings
from bench.gpu.rounds import measure, statistics
from bench.gpu.running import circumstances, clock_name, hardware, session_name
from bench.gpu.tuning import TuningRates
from train.engine.stepcost import make_step, peak_bytes, step_macs

BASELINE = "full"
RANK = 64
RATES = TuningRates(1e-4, 1e-4)  # small enough that weights stay finite over many steps on one batch


def run(settings: Settings, record: Record) -> None:
    """Every size of the settings."""
    for index, size in enumerate(settings.sizes):
        with record.step(f"steps {size}"):
            record.add("steps", group(size, settings, record.share(len(settings.sizes) - index)))


def group(size: str, settings: Settings, seconds: float) -> list[Row]:
    """Rows of one size; raises AptEdgeError when the budget is too short."""
    half, batch = half_of(settings.place), max(settings.batches)
    prompts = {"tokens": settings.some_tokens}
    methods = {"full": {}, "apt": prompts, "vpt-deep": prompts, "adaptformer": {"r": RANK}}
    steps = {
        name: make_step(model(size, name, own).to(settings.place), batch, optim=RATES, autocast=half)
        for name, own in methods.items()
    }
    counted = {
        name: {"gmacs": step_macs(step) / 1e9, "peak_mb": peak_bytes(step) / 1e6} for name, step in steps.items()
    }
    # The host's clock: a step asks for thousands of kernels, and the host's work is part of what a user waits for.
    times = measure(steps, settings.rounds, seconds, wall_clock)
    environment = circumstances(settings.place)
    facts = {
        "size": size,
        "session": session_name(settings.place, graph=False),
        "clock": clock_name(wall_clock),
        "device": hardware(environment),
        "batch": batch,
        "precision": f"{str(half).removeprefix('torch.')} autocast, float32 weights",
        "environment": environment,
    }
    return [
        {
            **facts,
            "contender": name,
            "method": name,
            "settings": methods[name],
            "trainable_parameters": step.model.trainable_parameters(),
            **counted[name],
            "gmacs_ratio": counted[name]["gmacs"] / counted[BASELINE]["gmacs"],
            "peak_ratio": counted[name]["peak_mb"] / counted[BASELINE]["peak_mb"],
            **statistics(times, name, BASELINE, batch),
        }
        for name, step in steps.items()
    ]


def half_of(device: torch.device) -> torch.dtype:
    """bfloat16, float16 on a GPU that only emulates it; without a loss scale, which costs next to nothing."""
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def model(size: str, name: str, own: dict[str, Any]) -> TunedModel:
    """The model to train, on a backbone of its own; the same initial weights in every run."""
    vit = random_backbone(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return TunedModel(vit, METHODS[name](vit.config, **own), CLASSES)
