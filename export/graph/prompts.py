"""How a task enters the graph: prompts, shared by the heads, and the classifier's layer, as constants or as inputs.

Shapes: h heads of a prompt (1 or H), n prompts, d head width, C width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from apt_edge.errors import ConfigError
from apt_edge.runtime.model_dir import HEAD_BIAS, HEAD_WEIGHT
from export.graph.batch import BATCH
from export.graph.rules import array, constant, insert, replace
from export.target import Prompts

HEAD = (HEAD_WEIGHT, HEAD_BIAS)
COUNT, CLASSES = "prompts", "classes"  # names of free axes; counts have their block's in front


def only_prompts(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of a task's values that are not its head."""
    return {name: array for name, array in values.items() if name not in HEAD}


def reads_head(node: ir.Node) -> bool:
    """Whether a node is the classifier's product or sum: always float32, and no layer of a block."""
    return any(value is not None and value.name in HEAD for value in node.inputs)


def share_heads(model: ir.Model, values: Mapping[str, np.ndarray]) -> None:
    """Repeat a prompt of one head for every head with Gather instead of Expand; others need no repeating.

    The file keeps `[1, 1, n, d]`, and TensorRT keeps the constant and its name: it folds Expand, Tile, Concat and Mul
    of a constant into a nameless copy a head (measured with TensorRT-RTX 1.7.1). `batch` repeats for further rows.
    """
    graph = model.graph
    for name, prompt in only_prompts(values).items():
        for node in [use.node for use in _value(graph, name).uses() if use.node.op_type == "Expand"]:
            heads, repeated = array(node.inputs[1]), node.inputs[0]
            assert heads is not None
            assert repeated is not None
            if prompt.shape[1] == 1:
                first = constant(graph, f"head_0_of_{heads[1]}", np.zeros(heads[1], dtype=np.int64))
                repeated = insert(node, "Gather", [repeated, first], f"{name}/heads", axis=1)
                repeated.shape = ir.Shape([1, heads[1], *prompt.shape[2:]])
            replace(node.outputs[0], repeated)
            graph.remove(node, safe=True)


def place(model: ir.Model, values: Mapping[str, np.ndarray], settings: Prompts) -> None:
    """Make prompts and head constants of their names, or leave them inputs with the axes that `settings` frees.

    Raises:
        ConfigError: there are more prompts or classes than `settings` allows.
    """
    for name, own in values.items():
        value = _value(model.graph, name)
        if settings.mode == "folded":
            value.const_value = ir.tensor(own, name=name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
        else:
            value.shape = ir.Shape(_axes(name, own.shape, settings))
    if settings.max_classes and HEAD_BIAS in values:
        (logits,) = model.graph.outputs
        logits.shape = ir.Shape([1, CLASSES])


def _axes(name: str, shape: tuple[int, ...], settings: Prompts) -> list[int | str]:
    """The shape of an input, with a name for each axis that is free."""
    axis, free, setting = (len(shape) - 1, CLASSES, "max_classes") if name in HEAD else (2, COUNT, "max_count")
    most = getattr(settings, setting)
    if most and shape[axis] > most:
        raise ConfigError(
            f"{name} has {shape[axis]} {free}, prompts.{setting} is {most}", fix=f"raise prompts.{setting}"
        )
    if name not in HEAD:  # equal names would be equal lengths
        free = f"{name.rpartition('.')[0]}.{free}"
    named = {0: BATCH if settings.per_row else 1} | ({axis: free} if most else {})
    return [named.get(index, length) for index, length in enumerate(shape)]


def _value(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)
