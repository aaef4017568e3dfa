"""What a device says of itself: JetPack, TensorRT, CUDA, GPU, power mode, memory, disk. Asks, and changes nothing."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
from pathlib import Path
from typing import Any

from apt_edge.runtime.machine import entry, first_line, output

ROOT = Path("/")
# Jetson Linux -> the JetPack that brings it, by the longest beginning.
JETPACKS = {
    "35.1": "5.0.2",
    "35": "5.1",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
}
LIBRARIES = ("usr/lib/*-linux-gnu", "usr/lib", "usr/lib64", "usr/local/lib", "usr/local/tensorrt/lib")


def device_files(root: Path = ROOT) -> dict[str, Any]:
    """What the files of the system tell; an entry is None where they do not.

    Args:
        root: of the file system.

    Returns:
        `board`, `l4t` (as `36.4.3`), `jetpack`, `tensorrt` (versions of its libraries), `cuda_toolkit`, `driver`
        (NVIDIA's), `governor`, `memory_mb` and `free_memory_mb` of the host, which on a Jetson is the GPU's as well.
    """
    l4t = _l4t(first_line(root / "etc/nv_tegra_release") or "")
    memory = {key: _megabytes(entry(root / "proc/meminfo", key)) for key in ("MemTotal", "MemAvailable")}
    return {
        "board": first_line(root / "proc/device-tree/model"),
        "l4t": l4t,
        "jetpack": _installed_jetpack(root) or (_jetpack_of(l4t) if l4t else None),
        "tensorrt": _tensorrt(root),
        "cuda_toolkit": _cuda_toolkit(root / "usr/local/cuda/version.json"),
        "driver": _driver(first_line(root / "proc/driver/nvidia/version") or ""),
        "governor": first_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_mb": memory["MemTotal"],
        "free_memory_mb": memory["MemAvailable"],
    }


def device_programs() -> dict[str, Any]:
    """What the driver and its programs tell; an entry is None, or the list empty, without them.

    Returns:
        `cuda_driver`: the newest CUDA that the driver runs; `power_mode` of a Jetson; `gpus`: one line each.
    """
    mode = re.search(r"NV Power Mode: *(\S+)", output("nvpmodel", "-q")) if shutil.which("nvpmodel") else None
    return {"cuda_driver": _cuda_of_driver(), "power_mode": mode[1] if mode else None, "gpus": _gpus()}


def _l4t(line: str) -> str | None:
    """`# R36 (release), REVISION: 4.3, ...` -> `36.4.3`."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", line)
    return f"{match[1]}.{match[2]}" if match else None


def _jetpack_of(l4t: str) -> str | None:
    begins = [start for start in JETPACKS if f"{l4t}.".startswith(f"{start}.")]
    return JETPACKS[max(begins, key=len)] if begins else None


def _installed_jetpack(root: Path) -> str | None:
    """Version of the package nvidia-jetpack, which not every system with JetPack has: `6.2.1+b38` -> `6.2.1`."""
    try:
        text = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*", text, re.MULTILINE)
    paragraph = match[0] if match else ""
    version = re.search(r"^Version: ([\d.]+)", paragraph, re.MULTILINE)
    installed = re.search("^Status: .* installed$", paragraph, re.MULTILINE)
    return version[1] if version and installed else None


def _tensorrt(root: Path) -> list[str]:
    """Versions of libnvinfer by the names of its files: `libnvinfer.so.10.3.0`."""
    names = (path.name for place in LIBRARIES for path in root.glob(f"{place}/libnvinfer.so.*.*.*"))
    return sorted({name.removeprefix("libnvinfer.so.") for name in names})


def _cuda_toolkit(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _driver(line: str) -> str | None:
    """`NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri ...` -> `550.135`."""
    match = re.search(r"\s(\d+(?:\.\d+)+)\s", f"{line} ")
    return match[1] if match else None


def _megabytes(value: str | None) -> int | None:
    return int(value.split()[0]) * 1024 // 1_000_000 if value else None


def _cuda_of_driver() -> str | None:
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("libcuda.so.1")
        if library.cuDriverGetVersion(ctypes.byref(version)):
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _gpus() -> list[str]:
    """Name, free and total memory; nvidia-smi of a Jetson does not tell memory."""
    if not shutil.which("nvidia-smi"):
        return []
    text = output("nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader")
    return [] if text.startswith("failed") else text.splitlines()
