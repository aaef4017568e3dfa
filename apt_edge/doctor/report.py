"""All that the doctor knows of this machine, and of a model on it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from apt_edge.doctor.device import ROOT, device_files, device_programs
from apt_edge.doctor.model import examine_model
from apt_edge.doctor.steps import steps
from apt_edge.runtime.machine import versions


def examine(model: Path | None = None, root: Path = ROOT) -> dict[str, Any]:
    """Facts of this machine.

    Args:
        model: an exported model or a bundle that is to run here.
        root: of the file system that facts are read from.

    Returns:
        `python`, `machine`, `apt-edge`, `device` (`device_files`, `device_programs`, and `free_disk_mb` where the
        model lies, else here), `steps` (`steps.steps`), and with a model `model` (`examine_model`).
    """
    device = device_files(root) | device_programs()
    device["free_disk_mb"] = shutil.disk_usage(model if model and model.exists() else ".").free // 1_000_000
    report = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "apt-edge": versions(["apt-edge"]).get("apt-edge", "not installed"),
        "device": device,
        "steps": steps(),
    }
    return report | ({"model": examine_model(model, device)} if model else {})
