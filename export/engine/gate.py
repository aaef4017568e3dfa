"""The compile gate: a graph passes when TensorRT-RTX fuses every attention, keeps every prompt and repeats itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_edge.errors import GateError
from export.engine.audit import audit
from export.engine.compiler import build


def prove_compiled(
    onnx_path: Path,
    attention: int,
    prompts: Sequence[str],
    *,
    capabilities: Sequence[str] = (),
    profiles: Mapping[str, list[list[int]]] | None = None,
) -> dict[str, Any]:
    """Compile a graph twice with TensorRT-RTX, which needs no GPU, and prove what it made of it.

    Args:
        onnx_path: the graph.
        attention: attentions in the graph.
        prompts: names of the prompt constants; none when prompts are inputs.
        capabilities: GPUs to compile for, like `SM86`; the compiler's own choice when empty.
        profiles: input name -> [min, opt, max] shapes; needed for every input with a free axis.

    Returns:
        The `gate` entry of the sidecar: see `audit`, and `deterministic`.

    Raises:
        GateError: the graph does not compile, an attention is not fused, a prompt is missing, or two builds differ.
    """
    reports = []
    for _ in range(2):
        built = build("tensorrt-rtx", onnx_path, profiles=profiles, capabilities=capabilities)
        reports.append(audit(built, attention, prompts))
    first, second = (report["plan_sha256"] for report in reports)
    if first != second:
        raise GateError(
            f"two builds of {onnx_path} differ",
            found=f"plans {first[:12]} and {second[:12]}",
            fix="report this as a bug: the compiler is not deterministic on this graph",
        )
    return reports[0] | {"deterministic": True}
