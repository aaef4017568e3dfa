"""The patch embedding as one product: tokens are rows of it, so that each is computed alike among however many others.

A convolution's tokens are columns, and ONNX Runtime sums their products in pieces whose length depends on how many
columns a thread has: one time step alone then differs from the same step of a clip in its last bits. Shapes: T frames,
S size, t, h, w tokens along time, height and width, N all, k, p, p the patch, C width.
"""

from __future__ import annotations

import onnx_ir as ir

from apt_edge.errors import GateError
from export.graph.rules import array, constant, insert, integers, replace

CONV, PRODUCT = "patch/Conv", "patch/MatMul"


def as_product(model: ir.Model) -> None:
    """Write the convolution `[B, 3, T, S, S]` -> `[B, C, t, h, w]` -> `[B, N, C]` as a product, in place."""
    graph = model.graph
    conv = next(node for node in graph if node.name == CONV)
    turned = _reader(_reader(conv, "Reshape"), "Transpose")
    clip, weight = conv.inputs[0], array(conv.inputs[1])
    if clip is None or clip.shape is None or weight is None or len(conv.inputs) > 2:
        raise GateError("the patch embedding is not as it was traced", found=CONV, fix="report this as a bug")
    width, channels, time, patch, _ = weight.shape
    frames, height = clip.shape.numpy()[2:4]
    steps, side, size = frames // time, height // patch, weight[0].size
    # -1: as many time steps as there are
    cut = insert(
        turned, "Reshape", [clip, integers(graph, 1, channels, -1, time, side, patch, side, patch)], "patch/pieces"
    )
    ordered = insert(turned, "Transpose", [cut], "patch/turned", perm=[0, 2, 4, 6, 1, 3, 5, 7])
    rows = insert(turned, "Reshape", [ordered, integers(graph, 1, -1, size)], "patch/rows")
    cut.shape = ir.Shape([1, channels, steps, time, side, patch, side, patch])
    ordered.shape = ir.Shape([1, steps, side, side, channels, time, patch, patch])
    rows.shape = ir.Shape([1, steps * side * side, size])
    for value in (cut, ordered, rows):
        value.type = clip.type
    columns = constant(graph, "patch.columns", weight.reshape(width, -1).T.copy())
    replace(turned.outputs[0], insert(turned, "MatMul", [rows, columns], PRODUCT))


def _reader(node: ir.Node, op_type: str) -> ir.Node:
    (use,) = node.outputs[0].uses()
    if use.node.op_type != op_type:
        raise GateError(f"{use.node.name} follows the patch embedding", fix="report this as a bug")
    return use.node
