"""How prompts enter the graph: shared by the heads, as constants or as inputs.

Shapes: h heads of a prompt (1 or H), n prompts, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from export.graph.rules import array, constant, insert, replace
from export.target import Prompts


def share_heads(model: ir.Model, names: Iterable[str]) -> None:
    """Repeat a prompt of one head for every head with Gather instead of Expand.

    The file keeps `[1, 1, n, d]`, and TensorRT keeps the constant and its name: it folds Expand, Tile, Concat and Mul of
    a constant into a nameless copy a head (measured with TensorRT-RTX 1.7.1).
    """
    graph = model.graph
    for name in names:
        for node in [use.node for use in _value(graph, name).uses() if use.node.op_type == "Expand"]:
            target = array(node.inputs[1])
            assert target is not None
            same = constant(graph, f"head_0_of_{target[1]}", np.zeros(target[1], dtype=np.int64))
            replace(node.outputs[0], insert(node, "Gather", [node.inputs[0], same], f"{name}/heads", axis=1))
            graph.remove(node, safe=True)


def place(model: ir.Model, prompts: Mapping[str, np.ndarray], settings: Prompts) -> None:
    """Make the prompts constants of their names, or leave them inputs with the axes that `settings` frees."""
    for name, values in prompts.items():
        value = _value(model.graph, name)
        if settings.mode == "folded":
            value.const_value = ir.tensor(values, name=name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
        else:
            heads, count, width = values.shape[1:]
            rows = "batch" if settings.per_row else 1
            value.shape = ir.Shape([rows, heads, "prompts" if settings.max_count else count, width])


def _value(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)
