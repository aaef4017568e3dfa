"""What a sidecar must say for its model to be used: looked at once, when the directory is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

DTYPES = ("uint8", "float16", "bfloat16", "float32")
RUNTIMES = ("onnxruntime-cpu", "onnxruntime-cuda", "openvino", "tensorrt", "tensorrt-rtx")


def damage(facts: Mapping[str, Any], clip: str) -> str | None:
    """What is wrong with `inputs`, `parts` or the target's runtime; None when nothing is.

    Sidecars of older versions have no `parts`, and what names no target is refused where one is needed.

    Args:
        facts: the sidecar as read.
        clip: name of the input that every model has.
    """
    inputs = facts.get("inputs")
    if not isinstance(inputs, dict) or clip not in inputs:
        return f"inputs without {clip}" if inputs else "no inputs"
    if wrong := [name for name, port in inputs.items() if not _is_port(port)]:
        return f"inputs.{wrong[0]} {inputs[wrong[0]]}"
    parts = facts.get("parts", [])
    if not isinstance(parts, list) or not all(_is_part(part) for part in parts):
        return f"parts {parts}"
    target = facts.get("target")
    if isinstance(target, dict) and target.get("runtime") not in RUNTIMES:
        return f"target.runtime {target.get('runtime')}"
    return None


def _is_port(port: Any) -> bool:
    """Whether this is {dtype, shape, profile}; a free axis is None, and a profile is its three shapes."""
    if not isinstance(port, dict) or port.get("dtype") not in DTYPES:
        return False
    shape, profile = port.get("shape"), port.get("profile")
    if not _is_shape([length or 0 for length in shape] if isinstance(shape, list) else None):
        return False
    shapes = [] if profile is None else profile
    return (
        isinstance(shapes, list)
        and len(shapes) in (0, 3)
        and all(_is_shape(entry) and len(entry) == len(port["shape"]) for entry in shapes)
    )


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(isinstance(length, int) and length >= 0 for length in shape)


def _is_part(part: Any) -> bool:
    """Whether this names a file of the directory and its hash."""
    return (
        isinstance(part, dict)
        and all(isinstance(part.get(key), str) for key in ("file", "sha256"))
        and PurePath(part["file"]).name == part["file"]
    )
