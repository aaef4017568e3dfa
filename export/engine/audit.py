"""The fusion gate: what a compiler's layer table says about attention and prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from apt_edge.errors import GateError
from export.engine.compiler import Build

# `_gemm_mha_v2_*` in TensorRT-RTX 1.7 and TensorRT 10 and 11; kernel names are no API, so other spellings count too.
FUSED = re.compile(r"(^|_)f?mha", re.IGNORECASE)


def audit(build: Build, attention: int, prompts: Sequence[str]) -> dict[str, Any]:
    """Count fused attentions and prompt constants in a build.

    Args:
        build: the compiled plan with its layer table.
        attention: attentions in the graph.
        prompts: names of the prompt initializers.

    Returns:
        The `engine` entry of the sidecar.
    """
    constants = {name for layer in build.layers for name in layer.constants}
    found = [prompt for prompt in prompts if any(_same_constant(name, prompt) for name in constants)]
    return {
        "compiler": build.compiler,
        "attention": attention,
        "fused_attention": sum(bool(FUSED.search(layer.name)) for layer in build.layers),
        "prompt_constants": len(found),
        "prompt_constants_missing": [prompt for prompt in prompts if prompt not in found],
        "layers": len(build.layers),
        "activation_bytes": build.activation_bytes,
        "plan_bytes": len(build.plan),
        "plan_sha256": hashlib.sha256(build.plan).hexdigest(),
    }


def gate(report: dict[str, Any], build: Build) -> None:
    """Raises GateError, with the layer names, unless every attention is fused and every prompt is there."""
    if report["fused_attention"] != report["attention"] or report["attention"] == 0:
        names = ", ".join(layer.name for layer in build.layers[:40])
        raise GateError(
            f"{report['fused_attention']} of {report['attention']} attentions are fused",
            found=f"layers {names}",
            fix="export in float16 with at least two heads and without attention outputs",
        )
    if report["prompt_constants_missing"]:
        raise GateError(
            f"{len(report['prompt_constants_missing'])} prompt constants are not in the engine",
            found=", ".join(report["prompt_constants_missing"]),
            fix="report this as a bug: a prompt was folded away",
        )


def _same_constant(name: str, prompt: str) -> bool:
    """Compilers append to a constant's name, as in `blocks.0.attn.prompt_key_constantHalf_myl0`."""
    return name == prompt or name.startswith(f"{prompt}_")
