"""Which packages each step of the project needs, and which are here. Imports nothing that it asks about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apt_edge.runtime.machine import versions

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


def steps() -> dict[str, dict[str, Any]]:
    """For each step `ready`, the versions found, what is missing and the fix."""
    found = {}
    for step, (needs, install) in STEPS.items():
        have = [first_installed(alternatives) for alternatives in needs]
        missing = [" or ".join(need) for need, got in zip(needs, have, strict=True) if got is None]
        found[step] = {
            "ready": not missing,
            "found": dict(got for got in have if got),
            "missing": missing,
            "fix": f'pip install "{install}"' if missing else "",
        }
    return found


def first_installed(alternatives: Iterable[str]) -> tuple[str, str] | None:
    """Name and version of the first of some packages that is installed."""
    return next(iter(versions(list(alternatives)).items()), None)
