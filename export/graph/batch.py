"""A free batch axis for a graph that was traced with one clip."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from apt_edge.runtime.model_dir import INPUT
from export.graph.rules import Value, array, constant, insert, integers

BATCH = "batch"


def free(model: ir.Model) -> None:
    """Free the batch axis in place: of the clip, of every Reshape, and of what is joined to a clip's values.

    What joins a clip's tokens or keys, prompts and constants of one row, is expanded to the batch first.
    """
    graph = model.graph
    clip = next(value for value in graph.inputs if value.name == INPUT)
    assert clip.shape is not None
    clip.shape = ir.Shape([BATCH, *clip.shape[1:]])
    dependent = {value for value in graph.inputs if value.shape is not None and value.shape[0] == BATCH}
    for node in graph:
        if any(value in dependent for value in node.inputs):
            dependent.update(node.outputs)
    for value in graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape([BATCH, *value.shape[1:]])
    for node in list(graph):
        if node.op_type == "Reshape" and node.inputs[0] in dependent:
            target = array(node.inputs[1])
            assert target is not None
            if target[0] == 1:
                node.replace_input_with(1, integers(graph, 0, *target[1:].tolist()))
                node.attributes.pop("allowzero", None)  # 0 stands for the batch
        for value in node.outputs if node.domain else ():
            assert value.shape is not None
            value.shape = ir.Shape([BATCH, *value.shape[1:]])
        if node.op_type == "Concat" and node.attributes["axis"].as_int() > 0:
            _expand(graph, node, dependent)


def _expand(graph: ir.Graph, node: ir.Node, dependent: set[Value]) -> None:
    leader = next((value for value in node.inputs if value in dependent), None)
    if leader is None:
        return
    for index, value in enumerate(node.inputs):
        if value is None or value in dependent:
            continue
        assert value.shape is not None
        rows = insert(node, "Shape", [leader], f"{node.name}/rows_{index}", start=0, end=1)
        ones = constant(graph, f"ones[{len(value.shape) - 1}]", np.ones(len(value.shape) - 1, dtype=np.int64))
        shape = insert(node, "Concat", [rows, ones], f"{node.name}/shape_{index}", axis=0)
        node.replace_input_with(index, insert(node, "Expand", [value, shape], f"{node.name}/batch_{index}"))
