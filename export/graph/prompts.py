"""How prompts enter the graph: shared by the heads, as constants or as inputs.

Shapes: h heads of a prompt (1 or H), n prompts, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from apt_edge.errors import ConfigError
from export.graph.rules import array, constant, insert, replace
from export.target import Prompts


def share_heads(model: ir.Model, prompts: Mapping[str, np.ndarray]) -> None:
    """Repeat a prompt of one head for every head with Gather instead of Expand; others need no repeating.

    The file keeps `[1, 1, n, d]`, and TensorRT keeps the constant and its name: it folds Expand, Tile, Concat and Mul
    of a constant into a nameless copy a head (measured with TensorRT-RTX 1.7.1). `batch` repeats for further rows.
    """
    graph = model.graph
    for name, values in prompts.items():
        for node in [use.node for use in _value(graph, name).uses() if use.node.op_type == "Expand"]:
            heads, repeated = array(node.inputs[1]), node.inputs[0]
            assert heads is not None
            assert repeated is not None
            if values.shape[1] == 1:
                first = constant(graph, f"head_0_of_{heads[1]}", np.zeros(heads[1], dtype=np.int64))
                repeated = insert(node, "Gather", [repeated, first], f"{name}/heads", axis=1)
                repeated.shape = ir.Shape([1, heads[1], *values.shape[2:]])
            replace(node.outputs[0], repeated)
            graph.remove(node, safe=True)


def place(model: ir.Model, prompts: Mapping[str, np.ndarray], settings: Prompts) -> None:
    """Make the prompts constants of their names, or leave them inputs with the axes that `settings` frees.

    Raises:
        ConfigError: there are more prompts than `settings` allows.
    """
    for name, values in prompts.items():
        value = _value(model.graph, name)
        if settings.mode == "folded":
            value.const_value = ir.tensor(values, name=name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
        else:
            heads, count, width = values.shape[1:]
            if settings.max_count and count > settings.max_count:
                raise ConfigError(
                    f"{name} has {count} prompts, prompts.max_count is {settings.max_count}",
                    fix="raise prompts.max_count",
                )
            rows = "batch" if settings.per_row else 1
            value.shape = ir.Shape([rows, heads, "prompts" if settings.max_count else count, width])


def _value(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)
