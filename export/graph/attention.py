"""The three forms of attention: found in the traced graph, written in a platform's dialect.

Shapes: B batch, H heads, N queries, S keys, D head width, C = H * D.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from apt_edge.errors import GateError
from export.graph.rules import Value, array, insert, integers, replace

CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Core:
    """The nodes of one attention between its projections: softmax(q kT) v.

    Attributes:
        query, key, value: `[B, H, N|S, D]`; the scale is on the query.
        result: `[B, H, N, D]`.
        softmax: the node that it was found by.
    """

    query: Value
    key: Value
    value: Value
    result: Value
    softmax: ir.Node


def find(graph: ir.Graph) -> list[Core]:
    """Every attention of a traced graph, in its order.

    Raises:
        GateError: a softmax that does not stand between the two products of an attention.
    """
    return [_core(node) for node in graph if node.op_type == "Softmax"]


def _core(softmax: ir.Node) -> Core:
    scores, result = softmax.inputs[0], softmax.outputs[0]
    product = scores.producer() if scores else None
    mix = [use.node for use in result.uses()]
    transposed = product.inputs[1].producer() if product and product.op_type == "MatMul" and product.inputs[1] else None
    if transposed is None or transposed.op_type != "Transpose" or [node.op_type for node in mix] != ["MatMul"]:
        raise GateError(f"{softmax.name} is not the softmax of an attention", fix="report this as a bug")
    assert product is not None
    query, key, value = product.inputs[0], transposed.inputs[0], mix[0].inputs[1]
    assert query is not None
    assert key is not None
    assert value is not None
    return Core(query, key, value, mix[0].outputs[0], softmax)


def write(model: ir.Model, form: str) -> int:
    """Rewrite every attention in place; returns how many there are.

    Args:
        model: a traced graph.
        form: `decomposed` leaves MatMul, Softmax, MatMul; `attention` is the operator of opset 23, the extended keys
            and values as its inputs (TensorRT refuses past_key); `multi-head` is ONNX Runtime's operator on
            `[B, N|S, C]` without past and present, the only form that its CPU kernel computes block by block.
    """
    cores = find(model.graph)
    if form != "decomposed":
        for core in cores:
            mix = core.result.producer()
            assert mix is not None
            name = core.softmax.name.rsplit("/", 1)[0] if core.softmax.name else "model"
            if form == "attention":
                inputs = [core.query, core.key, core.value]
                replace(core.result, insert(mix, "Attention", inputs, f"{name}/Attention", scale=1.0))
            else:
                _multi_head(model.graph, core, mix, name)
    if form == "multi-head":
        model.opset_imports[CONTRIB] = 1
    return len(cores)


def _multi_head(graph: ir.Graph, core: Core, mix: ir.Node, name: str) -> None:
    heads = core.query.shape[1] if core.query.shape else None
    assert isinstance(heads, int)
    inputs = [flat(graph, value) for value in (core.query, core.key, core.value)]
    result = insert(
        mix, "MultiHeadAttention", inputs, f"{name}/MultiHeadAttention", domain=CONTRIB, num_heads=heads, scale=1.0
    )
    result.type, result.shape = core.query.type, inputs[0].shape
    flattened = _only_reader(_only_reader(core.result, "Transpose"), "Reshape")
    replace(flattened, result)


def _only_reader(value: Value, op_type: str) -> Value:
    (use,) = value.uses()
    if use.node.op_type != op_type:
        raise GateError(f"{use.node.name} follows an attention", found=use.node.op_type, fix="report this as a bug")
    return use.node.outputs[0]


def flat(graph: ir.Graph, value: Value) -> Value:
    """`[B, H, N, D]` as `[B, N, C]`: taken from before the heads were split where that can be seen, else transposed."""
    node = value.producer()
    if node is not None and node.op_type == "Concat":
        parts = [flat(graph, part) for part in node.inputs if part is not None]
        name = f"{node.name}/flat"
        known = next((n.outputs[0] for n in graph if n.name == name), None)
        return known or _shaped(insert(node, "Concat", parts, name, axis=1), value)
    split = _projection(node)
    if split is not None:
        return _part(graph, *split, value)
    assert value.name is not None
    before = graph.node(0) if node is None else next(iter(node.successors()))
    turned = insert(before, "Transpose", [value], f"{value.name}/turned", perm=[0, 2, 1, 3])
    assert value.shape is not None
    _, heads, _, width = value.shape
    assert isinstance(heads, int)
    assert isinstance(width, int)
    shape = integers(graph, 0, 0, heads * width)  # -1 would not do for a block without prompts, of 0 tokens
    return _shaped(insert(before, "Reshape", [turned, shape], f"{value.name}/flat"), value)


def _projection(node: ir.Node | None) -> tuple[ir.Node, int, int] | None:
    """The Reshape `[B, N, P*C] -> [B, N, P, H, D]` behind one of P projections, P and which one; None if it is not."""
    if node is None or node.op_type != "Squeeze":
        return None
    chosen = node.inputs[0].producer() if node.inputs[0] else None
    turned = chosen.inputs[0].producer() if chosen and chosen.op_type == "Slice" and chosen.inputs[0] else None
    source = turned.inputs[0].producer() if turned and turned.op_type == "Transpose" and turned.inputs[0] else None
    if source is None or source.op_type != "Reshape" or source.outputs[0].shape is None or chosen is None:
        return None
    start, parts = array(chosen.inputs[1]), source.outputs[0].shape[2]
    assert start is not None
    assert isinstance(parts, int)
    return source, parts, int(start[0])


def _part(graph: ir.Graph, source: ir.Node, parts: int, index: int, value: Value) -> Value:
    joint = source.inputs[0]
    assert joint is not None
    if parts == 1:
        return joint
    name = f"{joint.name}/Split"
    known = next((node for node in graph if node.name == name), None)
    if known is None:
        first = insert(source, "Split", [joint], name, axis=2, num_outputs=parts, outputs=parts)
        known = first.producer()
        assert known is not None
    return _shaped(known.outputs[index], value)


def _shaped(flat_value: Value, value: Value) -> Value:
    if value.shape is not None and flat_value.shape is None:
        batch, heads, tokens, width = value.shape
        merged = heads * width if isinstance(heads, int) and isinstance(width, int) else None
        flat_value.shape = ir.Shape([batch, tokens, merged])
    flat_value.type = value.type
    return flat_value
