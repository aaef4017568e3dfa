"""A run's folder: it grows as `<name>.partial` and takes its name when everything is in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from apt_edge.errors import ConfigError
from apt_edge.files import replace_directory
from apt_edge.runtime.machine import machine
from train.engine.checkpoint import FOLDER, checkpoints


@contextmanager
def run_folder(out: Path, resume: bool, main: bool = True) -> Iterator[Path]:
    """Yield the folder to work in, empty unless an interrupted run is resumed; it becomes `out` when the block ends.

    An older run called `out` is replaced then. After an error only a folder with a checkpoint stays. Of several
    processes only the one that is `main` makes, renames or removes anything.

    Raises:
        ConfigError: `out` holds something else than a run, or an interrupted run would be lost.
    """
    if out.exists() and not (out / "recipe.toml").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not the folder of a run", fix="choose another --out")
    partial = out.with_name(f"{out.name}.partial")
    if not main:
        yield partial
        return
    if checkpoints(partial) and not resume:
        raise ConfigError(
            f"{partial} holds an interrupted run",
            fix=f"continue it with --resume, or remove {partial} to begin anew",
        )
    if not checkpoints(partial):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed before it had learnt anything
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        replace_directory(partial, out)
        shutil.rmtree(out / FOLDER, ignore_errors=True)
    finally:
        if not checkpoints(partial):
            shutil.rmtree(partial, ignore_errors=True)


def environment(device: torch.device, processes: int) -> dict[str, object]:
    """What a run's numbers depend on beside its recipe: the machine, the device on it, the number of processes."""
    return {
        **machine(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": processes,
    }
