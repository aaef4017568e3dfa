"""Mean pooling in front of the last linear layers: mean(h + g W + b) = mean(h) + mean(g) W + b.

The last block's second MLP layer then runs on one row instead of N: N 4 C^2 MACs less, 3.70 GMAC of ViT-B's 180.5.
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.rules import Value, array, insert, replace

TOKENS = 1


def push(model: ir.Model) -> bool:
    """Move the mean over the tokens in front of the linear layers whose results it alone reads; whether it could."""
    for node in model.graph:
        value = node.inputs[0] if node.inputs else None
        if node.op_type != "ReduceMean" or value is None or not _splits(value, _axis(node)):
            continue
        replace(node.outputs[0], _mean(value, node, []))
        model.graph.remove(node, safe=True)
        return True
    return False


def _axis(node: ir.Node) -> int | None:
    axes = array(node.inputs[1]) if len(node.inputs) > 1 else None
    return int(axes[0]) if axes is not None and len(axes) == 1 else None


def _splits(value: Value, axis: int | None) -> bool:
    """Whether a linear layer's result, or a sum with one, is averaged over the tokens."""
    node = value.producer()
    if axis != TOKENS or node is None or len(value.uses()) != 1:
        return False
    if node.op_type == "Slice":
        return node.inputs[0] is not None and _splits(node.inputs[0], axis)
    if node.op_type == "Add":
        return any(part is not None and _splits(part, axis) for part in node.inputs)
    return _linear(node)


def _linear(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    return weight is not None and weight.is_initializer()


def _mean(value: Value, pool: ir.Node, slices: list[ir.Node]) -> Value:
    """The mean over the tokens of `value`, cut by `slices` (outermost first); `pool` lends its attributes."""
    node = value.producer()
    if node is not None and len(value.uses()) == 1:
        if node.op_type == "Slice":
            assert node.inputs[0] is not None
            return _mean(node.inputs[0], pool, [*slices, node])
        if node.op_type == "Add" and _splits(value, TOKENS):
            parts = [part if _row(part) else _mean(part, pool, slices) for part in node.inputs if part is not None]
            return insert(pool, "Add", parts, f"{node.name}/pooled")
        if _linear(node):
            assert node.inputs[0] is not None
            return insert(pool, "MatMul", [_mean(node.inputs[0], pool, slices), node.inputs[1]], f"{node.name}/pooled")
    for cut in reversed(slices):
        value = insert(pool, "Slice", [value, *cut.inputs[1:]], f"{cut.name}/{value.name}")
    return insert(
        pool, "ReduceMean", [value, pool.inputs[1]], f"{value.name}/mean", keepdims=pool.attributes["keepdims"].as_int()
    )


def _row(value: Value | None) -> bool:
    """Whether a constant is the same for every token."""
    return value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == 1
