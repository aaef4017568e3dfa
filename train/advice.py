"""What to try when a tuned run ends below another one, usually the linear probe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_edge.backbone.layouts.clip import CLIP_MEAN, CLIP_STD
from apt_edge.backbone.vit import VitConfig
from apt_edge.clip import IMAGENET_MEAN, IMAGENET_STD
from apt_edge.errors import ConfigError
from train.recipe import Recipe

# Prompts live inside a frozen network and need rates far above the usual ones; a head below its rate never catches up.
SMALL_PROMPT_LR, SMALL_HEAD_LR = 0.1, 0.01
MANY_DEAD = 0.1  # share of the scales


def read_evaluation(folder: str | Path) -> dict[str, Any]:
    """The `evaluation.json` of a finished run; raises ConfigError when there is none."""
    path = Path(folder) / "evaluation.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"there is no evaluation at {path}", fix="give the folder of a finished run") from None


def warning(recipe: Recipe, mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """One message when `mine` has the lower accuracy, else an empty one; both are evaluations of runs."""
    if mine["accuracy"] >= other["accuracy"]:
        return ""
    return (
        f"{recipe.name} ends at {mine['accuracy']:.1%}, below {other['recipe']} with {other['accuracy']:.1%}\n"
        f"  likely cause: {_likely_cause(recipe, mine, other)}"
    )


def _likely_cause(recipe: Recipe, mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    optim = recipe.optim
    per_base = optim.batch / optim.lr_ref_batch
    rate = f"the rate {optim.method_lr:.3g} (optim.base_lr * batch / {optim.lr_ref_batch})"
    if optim.head_lr < SMALL_HEAD_LR:
        return (
            f"the head's rate {optim.head_lr:.3g} is too small to settle; try optim.head_base_lr {0.05 / per_base:.3g}"
        )
    if recipe.method["name"] == "apt" and optim.method_lr < SMALL_PROMPT_LR:
        return (
            f"{rate} is too small to move the prompts; try optim.base_lr {0.1 / per_base:.3g} to {0.3 / per_base:.3g}"
        )
    if mine["train_loss"] < other["train_loss"]:
        return "it fits the training clips better and generalises worse: more augment.views, or fewer tokens"
    if mine["train_loss"] > mine["best_train_loss"] + 0.05:
        return f"the loss rose again: {rate} is too large"
    return f"it has not fitted the training clips: more optim.epochs, or another optim.base_lr than {optim.base_lr:g}"


def dead_scales(result: Mapping[str, Any]) -> str:
    """A message when many of APT's scales have ended below 1, where they have no gradient, else an empty one."""
    share = result.get("dead_scales", 0.0)
    if share <= MANY_DEAD:
        return ""
    return (
        f"{share:.0%} of the prompt scales are below 1, where max(s, 1) has no gradient and they stay\n"
        "  lower optim.base_lr, switch optim.official_parity off, or set method.reparam = softplus"
    )


def other_colours(recipe: Recipe, config: VitConfig) -> str:
    """A message when the clips of a CLIP backbone have the colours of VideoMAE, which are the default, else none."""
    if config.family != "clip" or (recipe.clip.mean, recipe.clip.std) != (IMAGENET_MEAN, IMAGENET_STD):
        return ""
    settings = "".join(
        f" --set 'clip.{name}={list(colour)}'" for name, colour in (("mean", CLIP_MEAN), ("std", CLIP_STD))
    )
    return (
        f"the clips have VideoMAE's colours, and the backbone {recipe.backbone} was trained on CLIP's\n"
        f"  unless that is meant, add{settings}"
    )
