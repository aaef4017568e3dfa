"""The machine that a measurement was made on. numpy and the standard library alone; asks, and changes nothing."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("apt-edge", "numpy", "pillow", "av", "decord", "decord2", "safetensors", "torch", "accelerate", "transformers"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
)
GPU_FIELDS = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
# Power mode and clocks of a Jetson; what is not installed is left out.
COMMANDS = (("nvpmodel", "-q"), ("jetson_clocks", "--show"))
SECONDS = 20
# What a name of hardware holds beside the hardware.
CLUTTER = re.compile(
    r"\((R|TM|C)\)|@.*|with Radeon.*|\b(CPU|\d+-Core|Processor|Engineering Reference|Developer Kit)\b", re.IGNORECASE
)


def machine(threads: int | None = None) -> dict[str, Any]:
    """Facts of this machine; an entry is None where the system does not tell.

    Args:
        threads: that the measured work may use; None for all.

    Returns:
        `system`, `release`, `architecture`, `board` (of a device tree), `cpu`, `cpu_mhz` (of the first core, now),
        `cores`, `threads`, `memory_mb`, `governor`, `load_average` (of the last minute: more than a little means that
        others were working), `l4t` (first line of the Jetson release), `python`, `packages` (name to version), `gpus`
        (what nvidia-smi says of each), `commands` (a Jetson's tools and what they printed, or why they failed).
    """
    uname = platform.uname()
    return {
        "system": uname.system,
        "release": uname.release,
        "architecture": uname.machine,
        "board": first_line("/proc/device-tree/model"),
        "cpu": entry("/proc/cpuinfo", "model name", "Model"),
        "cpu_mhz": _mhz(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_mb": int((entry("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) // 1024 or None,
        "governor": first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "l4t": first_line("/etc/nv_tegra_release"),
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "gpus": gpus(),
        "commands": {" ".join(line): output(*line) for line in COMMANDS if shutil.which(line[0])},
    }


def usable_cores() -> int:
    """Processor cores that this process may use: a machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(environment: Mapping[str, Any], gpu: bool = False) -> str:
    """What headings call the hardware of an environment: `Jetson Orin NX`, `NVIDIA H200`, `AMD EPYC`.

    Args:
        environment: of `machine`.
        gpu: whether the work ran on the GPU; a board has one name for both.
    """
    if board := environment.get("board"):
        name = _plain(board)
        jetson = environment.get("l4t") is not None
        return f"Jetson {re.sub('NVIDIA|Jetson', '', name).strip()}" if jetson else name
    if gpu and environment.get("gpus"):
        return _plain(environment["gpus"][0]["name"])
    return _plain(environment.get("cpu") or environment.get("architecture") or "unknown")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Version of each package that is installed."""
    return {name: number for name in packages if (number := _version(name))}


def gpus() -> list[dict[str, str]]:
    """One dict of `GPU_FIELDS` for each GPU that nvidia-smi knows; empty without it."""
    if not shutil.which("nvidia-smi"):
        return []
    lines = output("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader").splitlines()
    names = GPU_FIELDS.split(",")
    return [dict(zip(names, map(str.strip, row), strict=False)) for row in csv.reader(lines)]


def output(*command: str) -> str:
    """What a program printed, or why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed: {error}"
    text = done.stdout.strip() or done.stderr.strip()
    return text if done.returncode == 0 else f"failed with exit code {done.returncode}: {text}"


def first_line(path: str | Path) -> str | None:
    """The first line of a file of the system; None where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\x00\n ").partition("\n")[0] or None
    except OSError:
        return None


def entry(path: str | Path, *keys: str) -> str | None:
    """The value of the first `key: value` of a file of the system whose key is one of `keys`."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), None)


def _plain(name: str) -> str:
    return " ".join(CLUTTER.sub(" ", name).split())


def _mhz() -> float | None:
    khz = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    mhz = float(khz) / 1e3 if khz else float(entry("/proc/cpuinfo", "cpu MHz") or 0)
    return round(mhz) or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
