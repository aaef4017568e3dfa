"""What every rewrite rule needs: constants, new nodes beside old ones, and tidying up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

Value = ir.Value


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> Value:
    """An initializer; the one that is there already when it has this name."""
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
    value.const_value = ir.tensor(array, name=name)
    graph.register_initializer(value)
    return value


def integers(graph: ir.Graph, *numbers: int) -> Value:
    """An int64 vector."""
    return constant(graph, f"int64[{','.join(map(str, numbers))}]", np.array(numbers, dtype=np.int64))


def insert(before: ir.Node, op_type: str, inputs: Sequence[Value | None], name: str, **attributes: Any) -> Value:
    """A node in front of `before`; returns its first output, whose name is the node's."""
    domain = attributes.pop("domain", "")
    outputs = attributes.pop("outputs", 1)
    node = ir.node(op_type, list(inputs), attributes=attributes, domain=domain, num_outputs=outputs, name=name)
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    for index, value in enumerate(node.outputs):
        value.name = name + (f".{index}" if index else "")
    node.metadata_props.update(before.metadata_props)
    return node.outputs[0]


def replace(old: Value, new: Value) -> None:
    """Let every reader of `old` read `new`; `old` keeps its name only as long as the graph's output needs it."""
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    if old.is_graph_output():
        old.name, new.name = f"{old.name}/old", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def array(value: Value | None) -> np.ndarray | None:
    """The values of a constant; None for anything that is computed."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def tidy(model: ir.Model) -> None:
    """Remove what nothing reads any more, and state every shape and type anew.

    Another domain's operators keep theirs, which ONNX cannot infer: what follows them depends on it.
    """
    common.RemoveUnusedNodesPass()(model)
    graph = model.graph
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output() and not node.domain:
                value.shape = None
    common.ShapeInferencePass()(model)
