"""MACs of an exported graph, counted node by node: what the device will really compute, whatever method made it.

The convention is that of `bench.flops` (fvcore's): products are MACs, LayerNorm counts 5 per element, the rest nothing.
An attention counts its two products, whether the graph spells them out or has one operator for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx

from apt_edge.errors import ModelError
from export.graph.batch import BATCH

Shapes = Mapping[str, tuple[int, ...]]

LAYER_NORM = 5
FUSED_ATTENTION = {("", "Attention"), ("com.microsoft", "MultiHeadAttention")}
FREE = {
    "Add", "Cast", "Concat", "Constant", "DequantizeLinear", "Div", "Erf", "Expand", "Flatten", "Gather", "Gelu",
    "Identity", "Mul", "Pow", "QuantizeLinear", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax",
    "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip


def graph_macs(path: str | Path) -> int:
    """Count one clip through an ONNX file whose shapes are static but for its batch; external weights are not read.

    Raises:
        ModelError: an operator whose cost is not known here, or a tensor whose shape is not in the graph.
    """
    graph = _of_one_clip(onnx.load(str(path), load_external_data=False)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and all(size > 0 for size in sizes):  # 0 stands for a free axis
            shapes[value.name] = tuple(sizes)
    try:
        return sum(_node_macs(node, shapes) for node in graph.node)
    except KeyError as error:
        raise ModelError(
            f"the shape of tensor {error} is not in {path}", fix="export with static shapes, or infer them first"
        ) from None


def _of_one_clip(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a free batch axis set to 1; what its exporter could then not tell is inferred."""
    graph, free = model.graph, False
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            batch, _, rows_a_clip = dim.dim_param.partition("*")
            if batch == BATCH:
                dim.dim_value, free = int(rows_a_clip or 1), True
    if not free:
        return model
    known = [value for value in graph.value_info if all(dim.dim_value for dim in value.type.tensor_type.shape.dim)]
    if len(known) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(known)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return model


def _node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    if node.op_type in FREE:
        return 0
    if node.op_type == "LayerNormalization":
        return LAYER_NORM * prod(shapes[node.input[0]])
    if node.op_type == "MatMul":
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if (node.domain, node.op_type) in FUSED_ATTENTION:
        return _attention_macs(node, shapes)
    raise ModelError(
        f"the cost of the operator {node.op_type} is not known",
        found=f"node {node.name}",
        fix="add it to bench/graph.py",
    )


def _attention_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Both products: q k^T and the weights times v, each N x S in every head.

    Shapes: MultiHeadAttention q `[B, N, C]`, k, v `[B, S, C]`; Attention q `[B, H, N, D]`, k, v `[B, H, S, D]`.
    """
    given = [shapes[name] for name in node.input if name]
    if len(given) != 3 or len({len(shape) for shape in given}) > 1 or given[0][-1] != given[1][-1]:
        raise ModelError(
            f"the cost of {node.op_type} is known for queries, keys and values of one layout alone",
            found=f"node {node.name} with inputs {', '.join(str(list(shape)) for shape in given)}",
            fix="add it to bench/graph.py",
        )
    query, key, value = given
    return key[-2] * (prod(query) + prod(query[:-1]) * value[-1])
