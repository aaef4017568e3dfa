"""The state of an unfinished run: one file a checkpoint, whole or absent, the last two kept."""

from __future__ import annotations

import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.files import atomic
from train.recipe import Recipe

FOLDER = "checkpoints"
KEPT = 2


def checkpoints(run: Path) -> list[Path]:
    """A run folder's checkpoints, the newest first."""
    return sorted((run / FOLDER).glob("step-*.pt"), reverse=True)


def save_checkpoint(run: Path, step: int, recipe: Recipe, state: dict[str, Any]) -> None:
    """Write what a run needs to go on after `step` steps, then remove all but the newest two.

    Raises:
        AptEdgeError: the disk has no room; the older checkpoints are still there.
    """
    path = run / FOLDER / f"step-{step:09d}.pt"
    try:
        with atomic(path) as temporary:
            torch.save({"recipe": recipe.model_dump(mode="json"), "step": step, **state}, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        kept = checkpoints(run)
        raise AptEdgeError(
            f"the checkpoint {path} cannot be written",
            found=str(error).splitlines()[0],
            fix=f"free some space and go on with --resume from {kept[0].name}" if kept else "free some space",
        ) from None
    for old in checkpoints(run)[KEPT:]:
        old.unlink()


def load_checkpoint(run: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The newest readable checkpoint, None when there is none; a torn file is removed with a warning.

    Raises:
        ConfigError: it was written under another recipe; the message names the settings that differ.
    """
    for path in checkpoints(run):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            print(f"warning: {path} is torn and skipped ({str(error).splitlines()[0]})", file=sys.stderr)
            path.unlink(missing_ok=True)  # else it would count as one of the two that are kept
            continue
        differences = _differences(state["recipe"], recipe.model_dump(mode="json"))
        if differences:
            raise ConfigError(
                f"{path} belongs to another recipe",
                found="; ".join(differences),
                fix=f"resume with the settings it was begun with, or remove {run} to begin anew",
            )
        return state
    return None


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        mine, theirs = old.get(key), new.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            lines += _differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            lines.append(f"{prefix}{key} was {mine}, is {theirs}")
    return lines
