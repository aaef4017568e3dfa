"""What to try when a tuned run ends below another one, usually the linear probe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError
from train.recipe import Recipe

# Prompts live inside a frozen network and need rates far above the usual ones; a head below its rate never catches up.
SMALL_PROMPT_LR, SMALL_HEAD_LR = 0.1, 0.01


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
    if optim.head_lr < SMALL_HEAD_LR:
        return f"optim.head_lr {optim.head_lr:g} is too small for the head to settle; 0.05 is a good start"
    if recipe.settings and optim.prompt_lr < SMALL_PROMPT_LR:
        return f"optim.prompt_lr {optim.prompt_lr:g} is too small to move the prompts; try 0.1 to 0.3"
    if mine["train_loss"] < other["train_loss"]:
        return "it fits the training clips better and generalises worse: more augment.views, or fewer tokens"
    if mine["train_loss"] > mine["best_train_loss"] + 0.05:
        return f"the loss rose again: optim.prompt_lr {optim.prompt_lr:g} is too large"
    return (
        f"it has not fitted the training clips: more optim.epochs, or another optim.prompt_lr than {optim.prompt_lr:g}"
    )
