"""The parts of an export: cut from its finished graph, written beside it, proved, and described in the sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.files import sha256
from apt_edge.runtime.model_dir import ONNX
from export.graph.dialect import Form
from export.graph.split import split
from export.proof.parts import prove_parts
from export.sidecar import described, ports
from export.target import Target


def write_parts(
    graph: ir.Model,
    form: Form,
    target: Target,
    values: Mapping[str, np.ndarray],
    frames: np.ndarray,
    clip: ClipSpec,
    steps: int,
    directory: Path,
) -> dict[str, Any]:
    """Write and prove `part0.onnx`, `part1.onnx` ... of a typed graph; nothing where the target is not cut.

    Args:
        graph: what `model.onnx` in `directory` holds.
        form: its types: in float32 the parts must give the file's logits to the last bit, else within the tolerance.
        target: says where to cut.
        values: prompts and head in the graph's types.
        frames: clips for the proof, uint8 `[M, T, S, S, 3]`.
        clip: the input contract.
        steps: time steps of a clip.
        directory: where the parts go.

    Returns:
        For the sidecar: `parts`; where there are any, `trunk_prompts`, whether blocks in front of the first cut have
        prompts, so that no other task can share them, and `parts_max_abs`, the largest difference of the parts' logits
        and the file's.

    Raises:
        ConfigError: the parts' types are some that nothing here computes in.
        GateError: the graph cannot be cut there, or its parts give other logits.
    """
    if not target.split_at:
        return {"parts": []}
    if form.precision == "bfloat16":
        raise ConfigError(
            "parts in bfloat16 cannot be proved: ONNX Runtime has no products for it on a CPU",
            fix="export without --split-at, or in another precision",
        )
    parts = split(graph, target.split_at, steps)
    paths = [directory / f"part{index}.onnx" for index in range(len(parts))]
    for part, path in zip(parts, paths, strict=True):
        ir.save(part.model, path)
        onnx.checker.check_model(str(path), full_check=True)
    exact = form.precision == "float32" and not target.int8
    rows = frames[: min(target.batch.max, len(frames))]
    apart = prove_parts(directory / ONNX, paths, rows, clip, values, None if exact else target.bounds)
    entries = [
        {
            "file": path.name,
            "sha256": sha256(path),
            "first_block": part.first_block,
            "inputs": ports(part.model.graph.inputs, target, values),
            "outputs": {str(value.name): described(value) for value in part.model.graph.outputs},
        }
        for part, path in zip(parts, paths, strict=True)
    ]
    trunk = [part.model.graph for part in parts[:-1] if part.first_block == 0]
    held = {name for graph in trunk for name in [*graph.initializers, *(str(value.name) for value in graph.inputs)]}
    return {"parts": entries, "trunk_prompts": not held.isdisjoint(values), "parts_max_abs": apart}
