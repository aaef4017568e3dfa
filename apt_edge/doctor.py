"""What this machine can do: versions, what each step lacks, and the fix. Imports nothing that it asks about."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Step -> packages, any one of each tuple, and the line that installs them.
STEPS: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "predict": ((("numpy",), ("safetensors",), ("av",), ("onnxruntime", "onnxruntime-gpu")), "apt-edge[onnxruntime]"),
    "run with OpenVINO": ((("openvino",),), "apt-edge[openvino]"),
    "train": (
        (("torch",), ("accelerate",), ("pydantic",), ("tqdm",), ("tensorboard",), ("matplotlib",), ("pillow",)),
        "apt-edge[train]",
    ),
    "export": (
        (("torch",), ("onnx",), ("onnxscript",), ("onnxruntime", "onnxruntime-gpu"), ("pydantic",)),
        "apt-edge[export]",
    ),
    "compile for RTX": ((("tensorrt-rtx-cu13",),), "apt-edge[tensorrt-rtx]"),
    "compile for Jetson, datacenter": ((("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),), "apt-edge[tensorrt]"),
    "run engines": ((("cuda-python", "pycuda"),), "apt-edge[cuda]"),
    "bench": ((("matplotlib",), ("jinja2",), ("psutil",), ("onnxruntime", "onnxruntime-gpu")), "apt-edge[bench]"),
}


def examine() -> dict[str, Any]:
    """Machine facts and, for each step, `ready`, the versions found, what is missing and the fix."""
    steps = {}
    for step, (needs, install) in STEPS.items():
        found = [_first(alternatives) for alternatives in needs]
        missing = [" or ".join(need) for need, have in zip(needs, found, strict=True) if have is None]
        steps[step] = {
            "ready": not missing,
            "found": dict(have for have in found if have),
            "missing": missing,
            "fix": f'pip install "{install}"' if missing else "",
        }
    return {
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "apt-edge": _version("apt-edge") or "not installed",
        "gpu": "NVIDIA driver found" if os.path.exists("/proc/driver/nvidia/version") else "no NVIDIA driver",
        "steps": steps,
    }


def _first(alternatives: tuple[str, ...]) -> tuple[str, str] | None:
    for name in alternatives:
        if found := _version(name):
            return name, found
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
