"""Prompts that are really tuned, within seconds, on the machine itself: a clone holds no trained pack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from apt_edge.backbone.vit import Vit
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel
from bench.gpu.clips import Labelled
from bench.gpu.models import SEED
from train.engine.optim import lr_factor
from train.engine.stepcost import make_step

BATCH = 32
WARM_SHARE, LEAST_RATE = 0.1, 2e-5  # of the schedule, as in the recipes


@dataclass(frozen=True)
class TuningRates:
    """`train.engine.optim.Rates`, with the values of the demonstration recipes (train/recipes/demo-*.toml)."""

    method_lr: float
    head_lr: float = 0.05
    weight_decay: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    label_smoothing: float = 0.1
    official_parity: bool = False


# Peak rates at a batch of 32: base_lr * 32 / 256.
RATES = {"apt": TuningRates(0.3), "vpt-deep": TuningRates(0.05)}


def tune(vit: Vit, name: str, tokens: int, start: int, data: Labelled, steps: int) -> TunedModel:
    """Tune prompts in the blocks from `start` on, in float32.

    Args:
        vit: frozen, on the device to compute on.
        name: `apt` or `vpt-deep`.
        tokens: prompts a block.
        start: first prompted block.
        data: clips `[M, 3, T, H, W]` and classes `[M]`, on the same device.
        steps: optimiser steps of 32 clips, with warm-up and cosine.

    Returns:
        The tuned model in evaluation mode.
    """
    clips, labels = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        settings: dict[str, Any] = {"tokens": tokens, "start": start}
        method = METHODS[name](vit.config, **settings)
        model = TunedModel(vit, method, int(labels.max()) + 1).to(clips.device)
        rates = RATES[name]
        step = make_step(model, BATCH, optim=rates, seed=SEED)
        draws = torch.Generator().manual_seed(SEED)
        for index in range(steps):
            rows = torch.randint(len(clips), (BATCH,), generator=draws).to(clips.device)
            step.inputs.copy_(clips[rows])
            step.labels.copy_(labels[rows])
            for group in step.optimiser.param_groups:
                group["lr"] = group["peak_lr"] * lr_factor(index, steps, round(WARM_SHARE * steps), LEAST_RATE)
            step()
    return model.eval()


def accuracy(model: TunedModel, data: Labelled) -> float:
    """Share of clips whose first label is right."""
    clips, labels = data
    with torch.no_grad():
        found = model(clips).argmax(dim=1)
    return float((found == labels).float().mean())
