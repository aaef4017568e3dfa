"""The audit: what a compiler's layer table says about attention and prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from apt_edge.errors import GateError
from apt_edge.runtime.trtexec import FUSED
from export.engine.compiler import Build


def audit(build: Build, attention: int, prompts: Sequence[str]) -> dict[str, Any]:
    """Prove that every attention is fused and every prompt constant is in the engine.

    Args:
        build: the compiled plan with its layer table.
        attention: attentions in the graph.
        prompts: names of the prompt constants; none when prompts are inputs.

    Returns:
        Counts, bytes and hash for the `gate` and `engine` entries of the sidecar. `prompt_constants` and `weight_bytes`
        are None where the compiler does not tell; TensorRT-RTX tells.

    Raises:
        GateError: with the layer names, or the names of the prompts.
    """
    fused = sum(bool(FUSED.search(layer.name)) for layer in build.layers)
    if fused != attention or attention == 0:
        raise GateError(
            f"{fused} of {attention} attentions are fused",
            found=f"layers {', '.join(layer.name for layer in build.layers[:40])}",
            fix="export in float16 with at least two heads and without attention outputs",
        )
    told = [layer.constants for layer in build.layers if layer.constants is not None]
    constants = set().union(*told)
    missing = [prompt for prompt in prompts if not any(_same_constant(name, prompt) for name in constants)]
    if told and missing:
        raise GateError(
            f"{len(missing)} prompt constants are not in the engine",
            found=", ".join(missing),
            fix="report this as a bug: a prompt was folded away",
        )
    return {
        "compiler": build.compiler,
        "attention": attention,
        "fused_attention": fused,
        "prompt_constants": len(prompts) if told else None,
        "layers": len(build.layers),
        "activation_bytes": build.activation_bytes,
        "weight_bytes": build.weight_bytes,
        "plan_bytes": len(build.plan),
        "plan_sha256": hashlib.sha256(build.plan).hexdigest(),
    }


def _same_constant(name: str, prompt: str) -> bool:
    """Compilers append to a constant's name, as in `blocks.0.attn.prompt_key_constantHalf_myl0`."""
    return re.fullmatch(rf"{re.escape(prompt)}(_constant\w*?)?(_myl\d+)?", name) is not None
