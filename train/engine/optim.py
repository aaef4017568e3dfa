"""AdamW with the groups and the learning-rate schedule of the published recipes."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from apt_edge.methods.tuned import TunedModel


class Rates(Protocol):
    """What a step reads of a recipe's `train.recipe.Optim`; everything here works without that and its pydantic."""

    @property
    def method_lr(self) -> float:
        """Peak rate of the method's parameters."""

    @property
    def head_lr(self) -> float:
        """Peak rate of the head."""

    @property
    def weight_decay(self) -> float:
        """Of everything that decays."""

    @property
    def betas(self) -> tuple[float, float]:
        """Of AdamW."""

    @property
    def eps(self) -> float:
        """Of AdamW."""

    @property
    def label_smoothing(self) -> float:
        """Of the loss."""

    @property
    def official_parity(self) -> bool:
        """Decay the scales as the published APT code does."""


def parameter_groups(model: TunedModel, optim: Rates) -> list[dict[str, object]]:
    """Groups for AdamW, each with a `peak_lr`: method and head, with and without weight decay, and layer-wise rates.

    Vectors and biases do not decay (wgcban/apt optim_factory.py:56), nor what the method says decay would harm.
    """
    groups: dict[tuple[float, bool, bool], dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        head = name.startswith("head.")
        harmed = name.removeprefix("method.") in model.method.undecayed and not optim.official_parity
        decayed = parameter.ndim > 1 and not name.endswith("bias") and not harmed
        rate = optim.head_lr if head else optim.method_lr * model.method.rate_factor(name)
        settings = {
            "name": f"{'head' if head else 'method'}, {'decayed' if decayed else 'not decayed'}, {rate:.3g}",
            "peak_lr": rate,
            "weight_decay": optim.weight_decay if decayed else 0.0,
            "params": [],
        }
        parameters = groups.setdefault((rate, head, decayed), settings)["params"]
        assert isinstance(parameters, list)
        parameters.append(parameter)
    return list(groups.values())


def adamw(model: TunedModel, optim: Rates) -> torch.optim.AdamW:
    """The optimiser at its peak rates; one fused kernel for all weights."""
    groups = [{"lr": group["peak_lr"], **group} for group in parameter_groups(model, optim)]
    return torch.optim.AdamW(groups, betas=optim.betas, eps=optim.eps, fused=True)


def lr_factor(step: int, steps: int, warmup_steps: int, min_ratio: float) -> float:
    """Rate at a step (from 0) as a part of the peak: straight from 0 over the warm-up, then a cosine to `min_ratio`."""
    if step < warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return min_ratio + 0.5 * (1 - min_ratio) * (1 + math.cos(math.pi * done))
