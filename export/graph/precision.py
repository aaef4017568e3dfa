"""Types written into the graph: half precision, float32 where it must be, and every Cast between them.

TensorRT 10 and later take the types as they stand (strong typing), so what is not float16 in the file is not float16 in
the engine.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from export.graph import rules
from export.graph.rules import Value, insert

FLOAT = ir.DataType.FLOAT
TYPES = {"float32": FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
NORM = "/LayerNormalization"  # in the name of a norm, and of its pieces in opsets that have no such operator
NUMPY = {TYPES["float16"]: np.dtype(np.float16), TYPES["bfloat16"]: np.dtype(ml_dtypes.bfloat16)}

# What only moves numbers about rounds nothing.
MOVES = {"Cast", "Concat", "Expand", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}


def always_float32(graph: ir.Graph, precision: str) -> set[ir.Node]:
    """Nodes that never leave float32: pixels, norms, and everything from the mean over the tokens on.

    The squares of a norm overflow float16 at |x| = 256, normalised pixels lose a bit or two, and logits are compared.
    A convolution has no bfloat16 before opset 22.
    """
    keep = {node for node in graph if NORM in (node.name or "")}
    if precision == "bfloat16":
        keep |= {node for node in graph if node.op_type == "Conv"}
    late: set[Value] = set()
    for node in graph:
        pool = node.op_type == "ReduceMean" and node not in keep
        if pool or any(value in late for value in node.inputs):
            keep.add(node)
            late.update(node.outputs)
    early = {node for node in graph if (node.name or "").startswith("pixels/")}
    return keep | early


def write(model: ir.Model, precision: str, float32: set[ir.Node]) -> None:
    """Type a float32 graph in place.

    Args:
        model: the graph; its results and constants are float32.
        precision: `float16` or `bfloat16`, for all nodes but
        float32: these.
    """
    if precision == "float32":
        return
    graph, half = model.graph, TYPES[precision]
    converted: dict[tuple[Value, ir.DataType], Value] = {}
    for port in graph.inputs:
        if port.dtype == FLOAT and (port.name or "").startswith("blocks."):
            port.type = ir.TensorType(half)  # a bound prompt
    for node in list(graph):
        kind = FLOAT if node in float32 else half
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (FLOAT, half):
                continue
            if value.dtype != kind:
                key = (value, kind)
                if key not in converted:
                    alone = all((use.node in float32) == (node in float32) for use in value.uses())
                    converted[key] = _convert(graph, node, value, kind, alone)
                node.replace_input_with(index, converted[key])
        if node.op_type == "Cast":
            continue
        for output in node.outputs:
            if output.dtype == FLOAT:
                output.type = ir.TensorType(kind)  # a new one: copies of a graph share their types


def _convert(graph: ir.Graph, node: ir.Node, value: Value, kind: ir.DataType, alone: bool) -> Value:
    """A constant in the other type, stored so; anything else through a Cast in front of its first reader.

    A constant keeps its name, by which prompts are found, when `alone`: when all its readers want the same type.
    """
    assert value.name is not None
    if value.const_value is None:
        result = insert(node, "Cast", [value], f"{value.name}/{kind.name.lower()}", to=int(kind))
        result.dtype, result.shape = kind, value.shape
        return result
    name = value.name if alone else f"{value.name}/{kind.name.lower()}"
    if alone:
        del graph.initializers[value.name]
    result = ir.Value(name=name, shape=value.shape, type=ir.TensorType(kind))
    result.const_value = ir.tensor(value.const_value.numpy().astype(NUMPY[kind]), dtype=kind, name=name)
    graph.register_initializer(result)
    return result


def rounded(model: ir.Model, precision: str, float32: set[ir.Node]) -> None:
    """Make a float32 graph compute, in place, what `write` would have a strict runtime compute.

    Every tensor that would be stored in `precision` is rounded to it and widened again; products accumulate in float32.
    ONNX Runtime on a CPU runs a float16 graph as a float32 one without rounding in between: no overflow and little
    error would be seen there.
    """
    graph, half = model.graph, TYPES[precision]
    for constant in list(graph.initializers.values()):
        readers = [use for use in constant.uses() if use.node not in float32]
        if constant.dtype != FLOAT or constant.const_value is None or not readers:
            continue
        with np.errstate(over="ignore"):
            narrowed = constant.const_value.numpy().astype(NUMPY[half]).astype(np.float32)
        copy = rules.constant(graph, f"{constant.name}/{precision}", narrowed)
        for use in readers:
            use.node.replace_input_with(use.idx, copy)
    stored = [(port, True) for port in graph.inputs]
    stored += [
        (v, node in float32) for node in graph if node.op_type not in MOVES or node in float32 for v in node.outputs
    ]
    for value, wide in stored:
        readers = [use for use in value.uses() if not (wide and use.node in float32)]
        if value.dtype != FLOAT or not readers:
            continue
        narrow = insert(readers[0].node, "Cast", [value], f"{value.name}/narrow", to=int(half))
        again = insert(readers[0].node, "Cast", [narrow], f"{value.name}/wide", to=int(FLOAT))
        narrow.type, again.type, again.shape = ir.TensorType(half), ir.TensorType(FLOAT), value.shape
        for use in readers:
            use.node.replace_input_with(use.idx, again)
    common.TopologicalSortPass()(model)
