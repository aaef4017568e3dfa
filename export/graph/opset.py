"""Older opsets and the operators that a platform has.

A graph is traced in opset 20; what an older one lacks is written in its own operators, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from apt_edge.errors import ConfigError
from export.graph.rules import Value, array, constant, insert, replace


def lower(model: ir.Model, opset: int) -> None:
    """Rewrite in place for an opset from 13 to 23. Raises ConfigError when that opset cannot say it."""
    for node in list(model.graph):
        if node.op_type == "Gelu" and opset < 20:
            _replace(node, _gelu(node))
        elif node.op_type == "LayerNormalization" and opset < 17:
            _replace(node, _layer_norm(node))
    for node in model.graph:
        if node.op_type == "Split" and opset < 18:
            node.attributes.pop("num_outputs", None)
        if node.op_type == "ReduceMean" and opset < 18 and len(node.inputs) > 1:
            axes = array(node.inputs[1])
            assert axes is not None
            node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
            node.resize_inputs(1)
            node.attributes.pop("noop_with_empty_axes", None)
        if node.op_type == "Shape" and opset < 15:
            raise ConfigError(
                f"opset {opset} cannot free the batch axis", fix="take batch 1, or a target of opset 15 or later"
            )
        if node.op_type == "Reshape" and opset < 14:
            node.attributes.pop("allowzero", None)
    model.opset_imports[""] = opset


def check_operators(model: ir.Model, allowed: Sequence[str], target: str) -> list[str]:
    """Names of the operators in a graph, with their domain when it is not ONNX's own.

    Raises:
        ConfigError: an operator that is not in `allowed`.
    """
    found = sorted({f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph})
    lacking = [name for name in found if name not in allowed]
    if lacking:
        raise ConfigError(
            f"the target {target} has no operator {', '.join(lacking)}",
            found=f"opset {model.opset_imports['']}, its page lists {len(allowed)} operators",
            fix="choose another form of attention, another target, or add it to `ops` if the platform has it",
        )
    return found


def _replace(node: ir.Node, value: Value) -> None:
    replace(node.outputs[0], value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _gelu(node: ir.Node) -> Value:
    """x / 2 (1 + erf(x / sqrt 2))."""
    graph, x = node.graph, node.inputs[0]
    assert graph is not None
    scaled = insert(node, "Mul", [x, _number(graph, x, math.sqrt(0.5))], f"{node.name}/scaled")
    erf = insert(node, "Erf", [scaled], f"{node.name}/erf")
    one_more = insert(node, "Add", [erf, _number(graph, x, 1.0)], f"{node.name}/one_more")
    half = insert(node, "Mul", [x, _number(graph, x, 0.5)], f"{node.name}/half")  # first: nothing gets larger than x
    return insert(node, "Mul", [half, one_more], f"{node.name}/product")


def _layer_norm(node: ir.Node) -> Value:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias, over the last axis."""
    graph, x = node.graph, node.inputs[0]
    assert graph is not None
    epsilon = node.attributes["epsilon"].as_float()
    axis = ir.AttrInt64s("axes", [-1])
    mean = insert(node, "ReduceMean", [x], f"{node.name}/mean", axes=axis.value, keepdims=1)
    centred = insert(node, "Sub", [x, mean], f"{node.name}/centred")
    squares = insert(node, "Mul", [centred, centred], f"{node.name}/squares")
    variance = insert(node, "ReduceMean", [squares], f"{node.name}/variance", axes=axis.value, keepdims=1)
    safe = insert(node, "Add", [variance, _number(graph, x, epsilon)], f"{node.name}/safe")
    deviation = insert(node, "Sqrt", [safe], f"{node.name}/deviation")
    result = insert(node, "Div", [centred, deviation], f"{node.name}/normal")
    for op_type, factor in zip(("Mul", "Add"), node.inputs[1:], strict=False):
        if factor is not None:
            result = insert(node, op_type, [result, factor], f"{node.name}/{'weight' if op_type == 'Mul' else 'bias'}")
    return result


def _number(graph: ir.Graph, like: Value | None, number: float) -> Value:
    """A scalar of the type of `like`."""
    assert like is not None
    assert like.dtype is not None
    dtype = like.dtype.numpy()
    return constant(graph, f"{dtype.name}[{number:.9g}]", np.array(number, dtype=dtype))
