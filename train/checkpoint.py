"""The state of an unfinished run in one file, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from apt_edge.errors import ConfigError
from apt_edge.files import atomic
from apt_edge.methods.tuned import TunedModel
from train.recipe import Recipe


def save_checkpoint(
    path: Path, model: TunedModel, optimiser: torch.optim.Optimizer, recipe: Recipe, history: list[dict[str, Any]]
) -> None:
    """Write what a run needs to go on: trained tensors, optimiser, finished epochs.

    No random state: every draw is a function of (seed, epoch, clip).
    """
    state = {
        "recipe": recipe.model_dump(mode="json"),
        "trained": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "optimiser": optimiser.state_dict(),
        "history": history,
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(
    path: Path, model: TunedModel, optimiser: torch.optim.Optimizer, recipe: Recipe
) -> list[dict[str, Any]]:
    """Put a checkpoint's tensors into model and optimiser; returns the records of the finished epochs.

    Raises:
        ConfigError: it was written under another recipe; the message names the settings that differ.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    differences = _differences(state["recipe"], recipe.model_dump(mode="json"))
    if differences:
        raise ConfigError(
            f"{path} belongs to another recipe",
            found="; ".join(differences),
            fix=f"resume with the settings it was begun with, or remove {path.parent} to begin anew",
        )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in state["trained"].items():
            parameters[name].copy_(tensor)
    optimiser.load_state_dict(state["optimiser"])
    return state["history"]


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        mine, theirs = old.get(key), new.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            lines += _differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            lines.append(f"{prefix}{key} was {mine}, is {theirs}")
    return lines
