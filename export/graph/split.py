"""A finished graph cut into parts that run one after the other, so that tasks share what comes before a cut.

What is cut is what the whole file holds: types, quantised layers, prompts and all. Shapes: N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from apt_edge.errors import GateError
from apt_edge.runtime.model_dir import INPUT
from apt_edge.runtime.parts import PATCHES
from export.graph.batch import BATCH
from export.graph.patches import PRODUCT
from export.graph.rules import Value, tidy

TOKENS = "tokens"
FRAMES = {"uint8": 1, "float32": 2}  # axis of the time in a clip of that type


class Part(NamedTuple):
    """One piece of a graph.

    Attributes:
        model: its own graph.
        first_block: the first block that this part or, where it has none, those behind it compute.
    """

    model: ir.Model
    first_block: int


def split(model: ir.Model, cuts: Sequence[int], steps: int) -> list[Part]:
    """Cut a graph, one part more than there are cuts; the graph itself stays as it is.

    Args:
        model: typed, its shapes known; to be cut at 0, its patch embedding is a product.
        cuts: blocks, ascending, in front of which to cut; 0 stands for behind the patch embedding, before positions
            and class tokens.
        steps: time steps of a clip; a part that ends behind the patch embedding takes the frames of one.

    Raises:
        GateError: more than the tokens of one block leads to the next one.
    """
    whole = model.clone()
    graph = whole.graph
    start = next(value for value in graph.inputs if value.name == INPUT)
    parts = []
    for first, cut in zip([0, *cuts], [*cuts, None], strict=True):
        end = graph.outputs[0] if cut is None else _patches(graph) if cut == 0 else _tokens(graph, cut)
        if cut is not None:
            end.name = PATCHES if cut == 0 else f"{TOKENS}.{cut}"
            _rows(end)
        parts.append(Part(_between(whole, start, end), first))
        start = end
    if 0 in cuts:
        _one_step(parts[0].model, steps)
    return parts


def _patches(graph: ir.Graph) -> Value:
    """The patch embedding `[B, N, C]`."""
    return next(node.outputs[0] for node in graph if node.name == PRODUCT)


def _tokens(graph: ir.Graph, block: int) -> Value:
    """The last result of the block before `block` through which everything goes that the clip leads to."""
    before = (f"blocks.{block - 1}.", f"blocks.{block - 1}/")
    for node in reversed(list(graph)):
        if (node.name or "").startswith(before) and len(node.outputs) == 1:
            behind = _needed(graph.outputs[0], node.outputs[0])
            if not any(value.name == INPUT for other in behind for value in other.inputs if value is not None):
                return node.outputs[0]
    raise GateError(f"the graph cannot be cut in front of block {block}", fix="report this as a bug")


def _needed(end: Value, start: Value) -> set[ir.Node]:
    """The nodes that compute `end` from `start` and from constants and other inputs."""
    needed: set[ir.Node] = set()
    open_values = [end]
    while open_values:
        value = open_values.pop()
        node = value.producer()
        if value is not start and node is not None and node not in needed:
            needed.add(node)
            open_values += [source for source in node.inputs if source is not None]
    return needed


def _rows(value: Value) -> None:
    """Name the free batch axis of a cut as the clip's is named."""
    assert value.shape is not None
    rows, *rest = value.shape
    value.shape = ir.Shape([rows if isinstance(rows, int) else BATCH, *rest])


def _between(whole: ir.Model, start: Value, end: Value) -> ir.Model:
    nodes = _needed(end, start)
    others = [value for value in whole.graph.inputs if any(use.node in nodes for use in value.uses())]
    inputs = [start, *(value for value in others if value is not start)]
    return ir.Model(ir.convenience.extract(whole.graph, inputs, [end]), ir_version=whole.ir_version)


def _one_step(stem: ir.Model, steps: int) -> None:
    """Make the part up to the patch embedding take the frames of one time step, in place: its shapes alone say more."""
    (clip,), (patches,) = stem.graph.inputs, stem.graph.outputs
    for value, axis in ((clip, FRAMES[_type(clip)]), (patches, 1)):
        assert value.shape is not None
        shape = list(value.shape)
        length = shape[axis]
        assert isinstance(length, int)
        shape[axis] = length // steps
        value.shape = ir.Shape(shape)
    tidy(stem)


def _type(value: Value) -> str:
    assert value.dtype is not None
    return value.dtype.numpy().name
