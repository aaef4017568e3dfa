"""When an engine need not be built again: the key of a build, and whether the engine that is there has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apt_edge.files import sha256
from apt_edge.runtime.model_dir import ModelDir
from export.engine.compiler import builder_flags, load_compiler
from export.engine.device import Device


def engine_key(
    compiler: str,
    device: Device | None,
    capabilities: Sequence[str],
    profiles: Mapping[str, list[list[int]]],
    onnx_sha256: str,
) -> dict[str, Any]:
    """What a plan depends on, as far as it can be asked for again.

    The workspace limit is left out: it follows the free memory of the moment, and any limit gives a valid plan.
    """
    trt = load_compiler(compiler)
    return {
        "compiler": f"{compiler} {trt.__version__}",
        "compute_capability": [device.capability] if device else list(capabilities),
        "flags": ["STRONGLY_TYPED", *builder_flags(trt)],
        "profiles": dict(profiles),
        "onnx_sha256": onnx_sha256,
    }


def is_current(model: ModelDir, key: Mapping[str, Any]) -> bool:
    """Whether `model.engine` is whole and was built and audited under this key."""
    entry = model.facts.get("engine") or {}
    return entry.get("key") == key and model.engine.is_file() and sha256(model.engine) == entry["plan_sha256"]
