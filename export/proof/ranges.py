"""How large numbers get inside a model: the float32 graph on real clips, with the extremes of every result read out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from tqdm import tqdm

from apt_edge.runtime.ort import OrtSession
from export.graph.prompts import reads_head
from export.graph.rules import insert

# What only moves numbers about has the range of its input.
ARITHMETIC = {"Add", "Conv", "Gelu", "LayerNormalization", "MatMul", "Mul", "Relu"}


@dataclass(frozen=True)
class Range:
    """The largest |x| of one node's result over all clips; `readers` are the names of the nodes that read it."""

    node: str
    op_type: str
    max_abs: float
    readers: tuple[str, ...]


def measure(graph: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], folder: Path) -> list[Range]:
    """Run a float32 graph in ONNX Runtime and read out the range of every computed tensor.

    Only two numbers a tensor leave the graph, so that memory stays that of one run.

    Args:
        graph: float32, attention decomposed, prompts as constants.
        feeds: inputs of one run each.
        folder: for the graph with its further outputs.
    """
    instrumented = graph.clone()
    watched = [node for node in instrumented.graph if node.op_type in ARITHMETIC and not reads_head(node)]
    outputs: dict[str, ir.Node] = {}
    for node in watched:
        for kind in ("ReduceMax", "ReduceMin"):
            after = next(iter(node.successors()), None)
            if after is None:
                continue
            name = f"{kind}:{node.name}"
            value = insert(after, kind, [node.outputs[0]], name, keepdims=0)
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
            instrumented.graph.outputs.append(value)
            outputs[name] = node
    largest: dict[str, float] = {}
    path = folder / "ranges.onnx"
    ir.save(instrumented, path)
    session = OrtSession(path, keep_memory=False)
    for feed in tqdm(feeds, desc="ranges", unit="clip", disable=None, leave=False):
        found = session.run(feed)
        for name, node in outputs.items():
            seen = abs(float(found[name]))
            largest[str(node.name)] = max(largest.get(str(node.name), 0.0), seen if seen < math.inf else math.inf)
    return [
        Range(
            str(node.name),
            node.op_type,
            largest[str(node.name)],
            tuple(str(use.node.name) for use in node.outputs[0].uses() if ":" not in str(use.node.name)),
        )
        for node in watched
        if node.name in largest
    ]
