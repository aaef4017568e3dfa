"""A run's folder: it grows as `<name>.partial` and takes its name when everything is in it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from apt_edge.errors import ConfigError
from apt_edge.files import replace_directory

PACKAGES = ("apt-edge", "torch", "numpy", "av", "safetensors")


@contextmanager
def run_folder(out: Path, resume: bool) -> Iterator[Path]:
    """Yield the folder to work in, empty unless an interrupted run is resumed; it becomes `out` when the block ends.

    An older run called `out` is replaced then. After an error only a folder with a checkpoint stays.

    Raises:
        ConfigError: `out` holds something else than a run, or an interrupted run would be lost.
    """
    if out.exists() and not (out / "recipe.toml").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not the folder of a run", fix="choose another --out")
    partial = out.with_name(f"{out.name}.partial")
    checkpoint = partial / "checkpoint.pt"
    if checkpoint.is_file() and not resume:
        raise ConfigError(
            f"{partial} holds an interrupted run",
            fix=f"continue it with --resume, or remove {partial} to begin anew",
        )
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        checkpoint.unlink(missing_ok=True)
        replace_directory(partial, out)
    finally:
        if not checkpoint.is_file():
            shutil.rmtree(partial, ignore_errors=True)


def environment(device: torch.device) -> dict[str, object]:
    """What a run's numbers depend on beside its recipe: versions, processor, threads."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
