"""Small attention graphs and exported directories for the compiler, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from apt_edge.clip import ClipSpec
from apt_edge.files import sha256, write_json
from export.target import load_target

TARGETS = Path(__file__).parents[3] / "export" / "targets"
WIDTH, TOKENS, PROMPTS = 64, 16, 8
NAMES = tuple(f"blocks.{block}.attn.prompt_{part}" for block in range(2) for part in ("key", "value"))
TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


def attention_graph(
    path: Path,
    *,
    precision: str = "float16",
    heads: int = 2,
    repeat: str = "Gather",
    operator: bool = False,
    bound: bool = False,
    batch: int | str = 1,
    expose: bool = False,
) -> Path:
    """Two attentions over `[batch, 16, 64]`, each with eight prompts that its heads share.

    Args:
        path: file to write.
        precision: type of everything.
        heads: of each attention.
        repeat: how one head's prompts become every head's: `Gather`, or `Expand`, which compilers fold.
        operator: the operator Attention of opset 23 instead of MatMul, Softmax, MatMul.
        bound: prompts are inputs with a batch axis.
        batch: a name for a free axis.
        expose: make the attention probabilities an output.
    """
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    inputs = [helper.make_tensor_value_info("clip", TYPES[precision], [batch, TOKENS, WIDTH])]

    def node(kind: str, *names: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, names[:-1], names[-1:], **attributes))
        return names[-1]

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def random(name: str, *shape: int) -> str:
        return constant(name, rng.normal(size=shape).astype(precision))

    constant("split", np.array([0, TOKENS, heads, WIDTH // heads]))
    constant("join", np.array([0, TOKENS, WIDTH]))
    constant("heads", np.zeros(heads, np.int64) if repeat == "Gather" else np.array([1, heads, 1, 1]))
    x = "clip"
    for block in range(2):
        sides = []
        for part in ("query", "key", "value"):
            name = f"blocks.{block}.attn.{part}"
            flat = node("MatMul", x, random(f"{name}.weight", WIDTH, WIDTH), f"{name}/flat")
            side = node("Transpose", node("Reshape", flat, "split", f"{name}/split"), name, perm=[0, 2, 1, 3])
            if part != "query":
                prompt, shape = f"blocks.{block}.attn.prompt_{part}", (1, PROMPTS, WIDTH // heads)
                if bound:
                    inputs.append(helper.make_tensor_value_info(prompt, TYPES[precision], [batch, *shape]))
                else:
                    random(prompt, 1, *shape)
                axis = {"axis": 1} if repeat == "Gather" else {}
                every = node(repeat, prompt, "heads", f"{name}/heads", **axis)
                if batch != 1 and not bound:
                    row = node("Slice", node("Shape", side, f"{name}/shape"), "zero", "one", f"{name}/batch")
                    every = node("Expand", every, node("Concat", row, "ones", f"{name}/rows", axis=0), f"{name}/every")
                side = node("Concat", side, every, f"{name}/all", axis=2)
            sides.append(side)
        mixed, probabilities = f"blocks.{block}/mixed", f"blocks.{block}/probabilities"
        if operator:
            node("Attention", *sides, mixed, scale=1.0)
        else:
            keys = node("Transpose", sides[1], f"blocks.{block}/keys", perm=[0, 1, 3, 2])
            node("Softmax", node("MatMul", sides[0], keys, f"blocks.{block}/scores"), probabilities, axis=-1)
            node("MatMul", probabilities, sides[2], mixed)
        rows = node("Transpose", mixed, f"blocks.{block}/rows", perm=[0, 2, 1, 3])
        x = node("Reshape", rows, "join", f"blocks.{block}/joined")
    constant("zero", np.array([0]))
    constant("one", np.array([1]))
    constant("ones", np.array([1, 1, 1]))
    node("Identity", x, "logits")
    outputs = [helper.make_tensor_value_info("logits", TYPES[precision], [batch, TOKENS, WIDTH])]
    if expose:
        shape = [batch, heads, TOKENS, TOKENS + PROMPTS]
        outputs.append(helper.make_tensor_value_info("blocks.0/probabilities", TYPES[precision], shape))
    graph = helper.make_graph(nodes, "attention", inputs, outputs, weights)
    opset = helper.make_opsetid("", 23 if operator else 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    onnx.checker.check_model(path, full_check=True)
    return path


def profiles(bound: bool = False) -> dict[str, list[list[int]]]:
    """Optimisation profiles of a graph with a free batch, from one clip to four."""
    shapes = {"clip": [TOKENS, WIDTH]} | ({name: [1, PROMPTS, WIDTH // 2] for name in NAMES} if bound else {})
    return {name: [[size, *shape] for size in (1, 2, 4)] for name, shape in shapes.items()}


def make_model(path: Path, page: str = "tensorrt-rtx", **graph: Any) -> Path:
    """An exported directory for a page of `export/targets`, with an `attention_graph`."""
    target = load_target(TARGETS / f"{page}.toml")
    path.mkdir()
    attention_graph(path / "model.onnx", **graph)
    bound, free = graph.get("bound", False), graph.get("batch", 1) != 1
    shapes, dtype = profiles(bound), graph.get("precision", "float16")
    inputs = {
        name: {"dtype": dtype, "shape": [None if free else 1, *sizes[0][1:]], "profile": sizes if free else None}
        for name, sizes in shapes.items()
    }
    sidecar = {
        "target": target.model_dump(),
        "attention": 2,
        "labels": ["walk", "run"],
        "clip": ClipSpec(frames=4, size=32, sampling="segments").to_dict(),
        "prompts": list(NAMES),
        "prompt_mode": "bound" if bound else "folded",
        "inputs": inputs,
        "onnx_sha256": sha256(path / "model.onnx"),
    }
    write_json(path / "model.json", sidecar)
    return path
