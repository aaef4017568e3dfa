"""What `model.json` says of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from apt_edge.clip import ClipSpec
from apt_edge.runtime.model_dir import OUTPUT
from export.graph.dialect import Form
from export.proof.numerics import NAMES, Numerics
from export.target import Target


def ports(graph: ir.Model, target: Target, prompts: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The graph's inputs: type, shape with None for a free axis, and the profile of an input that has one.

    Args:
        graph: the typed graph.
        target: its batch and prompts give the profiles.
        prompts: values of the prompts, whose count is the usual one.
    """
    batch, most, found = target.batch, target.prompts.max_count, {}
    for value in graph.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [axis if isinstance(axis, int) else None for axis in value.shape]
        profile = None
        if None in shape:
            count = prompts[str(value.name)].shape[2] if value.name in prompts else None
            sizes = {0: (batch.min, batch.opt, batch.max), 2: (1, count, most)}
            profile = [[sizes[i][k] if axis is None else axis for i, axis in enumerate(shape)] for k in range(3)]
        found[str(value.name)] = {"dtype": value.dtype.numpy().name, "shape": shape, "profile": profile}
    return found


def profiles(inputs: Mapping[str, dict[str, Any]]) -> dict[str, list[list[int]]]:
    """Smallest, usual and largest shape of every input that has a free axis."""
    return {name: port["profile"] for name, port in inputs.items() if port["profile"]}


def describe_model(target: Target, clip: ClipSpec, labels: Sequence[str]) -> dict[str, Any]:
    """What the model takes and gives."""
    rows = None if target.batch.dynamic else 1
    return {
        "target": target.model_dump() | {"tolerance": target.bounds.model_dump()},
        "clip": clip.to_dict(),
        "labels": list(labels),
        "outputs": {OUTPUT: {"dtype": "float32", "shape": [rows, len(labels)]}},
        "prompt_mode": target.prompts.mode,
    }


def describe_graph(form: Form, graph: ir.Model, attention: int, ops: Sequence[str]) -> dict[str, Any]:
    """How the graph is written; `float32_nodes` are those that stay float32 among half ones."""
    below = form.precision != "float32"
    kept = sorted(str(node.name) for node in form.keep(graph.graph)) if below else []
    return {
        "precision": form.precision if form.written else "float32",
        "opset": form.opset,
        "ops": list(ops),
        "attention": attention,
        "attention_form": form.attention,
        "float32_nodes": kept,
    }


def describe_numerics(
    name: str, target: Target, numerics: Numerics, tried: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Which types were chosen and why.

    Args:
        name: the precision or repair that was taken.
        target: what was asked for.
        numerics: the ranges.
        tried: what was refused before, `form` and `refused`.
    """
    return {
        "requested": target.precision,
        "chosen": NAMES.get(name, name),
        "reason": "; ".join(f"{item['form']}: {item['refused']}" for item in tried) or numerics.comment(),
        "tried": list(tried),
        **numerics.report(),
    }
