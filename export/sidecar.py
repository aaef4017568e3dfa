"""What `model.json` says of an export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from apt_edge.clip import ClipSpec
from apt_edge.runtime.model_dir import OUTPUT
from export.graph.batch import BATCH
from export.graph.dialect import Form
from export.graph.prompts import CLASSES, COUNT
from export.proof.numerics import NAMES, Numerics
from export.target import Target


def ports(inputs: Iterable[ir.Value], target: Target, values: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """A graph's inputs: type, shape with None for a free axis, and the profile of an input that has one.

    Args:
        inputs: of the typed graph.
        target: its batch and prompts give the profiles.
        values: the task, whose count of prompts and number of classes are the usual ones.
    """
    found = {}
    for value in inputs:
        assert value.shape is not None
        name, axes = str(value.name), [axis if isinstance(axis, int) else str(axis.value) for axis in value.shape]
        own = values[name].shape if name in values else [target.batch.opt, *axes[1:]]
        lengths = [_lengths(axis, int(usual), target) for axis, usual in zip(axes, own, strict=True)]
        entry = described(value)
        profile = [list(sizes) for sizes in zip(*lengths, strict=True)] if None in entry["shape"] else None
        found[name] = {**entry, "profile": profile}
    return found


def described(value: ir.Value) -> dict[str, Any]:
    """Type and shape of an input or output, with None for a free axis."""
    assert value.shape is not None
    assert value.dtype is not None
    return {
        "dtype": value.dtype.numpy().name,
        "shape": [axis if isinstance(axis, int) else None for axis in value.shape],
    }


def _lengths(axis: int | str, usual: int, target: Target) -> tuple[int, int, int]:
    """Smallest, usual and largest length of an axis."""
    batch, settings = target.batch, target.prompts
    ends = {
        BATCH: (batch.min, batch.max),
        COUNT: (target.fewest_prompts, settings.max_count),
        CLASSES: (1, settings.max_classes),
    }
    if isinstance(axis, int):
        return axis, axis, axis
    least, most = ends[axis.rpartition(".")[2]]
    assert most is not None
    return least, batch.opt if axis == BATCH else usual, most


def profiles(inputs: Mapping[str, dict[str, Any]]) -> dict[str, list[list[int]]]:
    """Smallest, usual and largest shape of every input that has a free axis."""
    return {name: port["profile"] for name, port in inputs.items() if port["profile"]}


def describe_model(target: Target, clip: ClipSpec, labels: Sequence[str]) -> dict[str, Any]:
    """What the model takes and gives."""
    rows = None if target.batch.dynamic else 1
    classes = None if target.prompts.max_classes else len(labels)
    return {
        "target": target.model_dump() | {"tolerance": target.bounds.model_dump()},
        "clip": clip.to_dict(),
        "labels": list(labels),
        "outputs": {OUTPUT: {"dtype": "float32", "shape": [rows, classes]}},
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
