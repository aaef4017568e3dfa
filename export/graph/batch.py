"""Rows: a free batch axis for a graph that was traced with one clip, and constants that stand in every row.

Where time steps attend apart, a clip is as many rows as it has time steps.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from apt_edge.errors import ConfigError
from apt_edge.runtime.model_dir import INPUT
from export.graph.rules import Value, array, constant, insert, integers

BATCH = "batch"


def spread(model: ir.Model) -> None:
    """Repeat, in place, what has one row and is joined to several: prompts beside the keys of each time step.

    With Gather, for the reason that `prompts.share_heads` has.
    """
    for node in list(model.graph):
        if node.op_type != "Concat" or node.attributes["axis"].as_int() == 0:
            continue
        rows = max(_rows(value) for value in node.inputs)
        for index, value in enumerate(node.inputs):
            if rows > 1 and _rows(value) == 1:
                first = constant(model.graph, f"row_0_of_{rows}", np.zeros(rows, dtype=np.int64))
                repeated = insert(node, "Gather", [value, first], f"{node.name}/rows_{index}", axis=0)
                node.replace_input_with(index, repeated)


def _rows(value: Value | None) -> int:
    rows = value.shape[0] if value is not None and value.shape is not None else None
    return rows if isinstance(rows, int) else 1


def free(model: ir.Model) -> None:
    """Free the batch axis in place: of the clip, of every Reshape, and of what is joined to a clip's values.

    What joins a clip's tokens or keys, prompts and constants of one row, is expanded to the batch first.

    Raises:
        ConfigError: prompts with a batch axis, beside the keys of several rows a clip.
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
            target, rows = array(node.inputs[1]), node.outputs[0].shape
            assert target is not None
            if target[0] > 0:
                assert rows is not None
                kept = _rows(node.inputs[0]) == target[0]
                shape = (0, *target[1:].tolist()) if kept else (-1, *rows.numpy()[1:])
                node.replace_input_with(1, integers(graph, *shape))
                node.attributes.pop("allowzero", None)  # 0 stands for the batch
        for value in node.outputs if node.domain else ():
            assert value.shape is not None
            rows_a_clip = _rows(value)
            value.shape = ir.Shape([BATCH if rows_a_clip == 1 else f"{BATCH}*{rows_a_clip}", *value.shape[1:]])
        if node.op_type == "Concat" and node.attributes["axis"].as_int() > 0:
            _expand(graph, node, dependent)


def _expand(graph: ir.Graph, node: ir.Node, dependent: set[Value]) -> None:
    leader = next((value for value in node.inputs if value in dependent), None)
    if leader is None:
        return
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if value in dependent:
            if _rows(value) < _rows(leader):
                raise ConfigError(
                    "prompts of each clip cannot stand beside time steps that attend apart",
                    fix="leave prompts.per_row out, or take the joint form of the backbone",
                )
            continue
        assert value.shape is not None
        rows = insert(node, "Shape", [leader], f"{node.name}/rows_{index}", start=0, end=1)
        ones = constant(graph, f"ones[{len(value.shape) - 1}]", np.ones(len(value.shape) - 1, dtype=np.int64))
        shape = insert(node, "Concat", [rows, ones], f"{node.name}/shape_{index}", axis=0)
        node.replace_input_with(index, insert(node, "Expand", [value, shape], f"{node.name}/batch_{index}"))
