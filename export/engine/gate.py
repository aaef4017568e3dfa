"""The compile gate: a graph passes when TensorRT-RTX fuses every attention, keeps every prompt and repeats itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_edge.errors import GateError
from export.engine.audit import audit
from export.engine.compiler import Build, build


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
        The `gate` entry of the sidecar: see `audit`, and `deterministic`: the two plans are equal to the byte. With
        free axes they need not be: the compiler orders its arithmetic of shapes anew each time.

    Raises:
        GateError: the graph does not compile, an attention is not fused, a prompt is missing, or two builds differ: in
            any byte, or with free axes in a layer, a constant, or the memory they take.
    """
    built = build("tensorrt-rtx", onnx_path, profiles=profiles, capabilities=capabilities)
    report = audit(built, attention, prompts)
    again = build("tensorrt-rtx", onnx_path, profiles=profiles, capabilities=capabilities)
    same = built.plan == again.plan
    if not same and (not profiles or _engine(built) != _engine(again)):
        raise GateError(
            f"two builds of {onnx_path} differ",
            found=" and ".join(f"{len(one.plan)} bytes with {len(one.layers)} layers" for one in (built, again)),
            fix="report this as a bug: the compiler is not deterministic on this graph",
        )
    return report | {"deterministic": same}


def _engine(built: Build) -> tuple[Any, ...]:
    return built.layers, built.activation_bytes, built.weight_bytes
