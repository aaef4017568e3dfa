"""Small exported models, made by hand: a graph with one attention, its sidecar and golden clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from apt_edge.clip import ClipSpec
from apt_edge.files import sha256, write_json
from export.target import Target, load_target

TARGETS = Path(__file__).parents[3] / "export" / "targets"
CLIP = ClipSpec(frames=4, size=32, sampling="segments")
LABELS = [f"class {i}" for i in range(5)]
PROMPT = "blocks.0.attn.prompt_key"


def make_model(path: Path, page: str, bound: bool = False, overrides: list[str] | None = None) -> Path:
    """Write what `export.to_onnx` would for a page of `export/targets`; tokens are the means of the frames."""
    target = load_target(TARGETS / f"{page}.toml", overrides)
    rng = np.random.default_rng(0)
    path.mkdir()
    inputs = {"clip": {"dtype": "uint8", "shape": [1, 4, 32, 32, 3], "profile": None}}
    if target.batch.dynamic:
        sizes = (target.batch.min, target.batch.opt, target.batch.max)
        inputs["clip"] |= {"shape": [None, 4, 32, 32, 3], "profile": [[size, 4, 32, 32, 3] for size in sizes]}
    prompts = {PROMPT: rng.normal(size=(1, 2, 3)).astype(np.float32)} if bound else {}
    if bound:
        inputs[PROMPT] = {"dtype": "float32", "shape": [1, 2, 3], "profile": None}
        save_file(prompts, path / "prompts.safetensors")
    onnx.save(graph(target, inputs, rng), path / "model.onnx")
    frames = rng.integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    frames[1, ..., 2] //= 4
    session = onnxruntime.InferenceSession(path / "model.onnx")
    logits = np.concatenate([session.run(None, {"clip": clip[None], **prompts})[0] for clip in frames])
    np.savez(path / "golden.npz", frames=frames, logits=logits)
    sidecar = {
        "target": target.model_dump(),
        "precision": target.precision,
        "opset": target.opset,
        "attention": 1,
        "float32_nodes": ["norm/squares", "softmax"],
        "labels": LABELS,
        "clip": CLIP.to_dict(),
        "prompts": list(prompts),
        "prompt_mode": "bound" if bound else "folded",
        "inputs": inputs,
        "outputs": {"logits": {"dtype": "float32", "shape": [1, 5]}},
        "method": "apt",
        "onnx_sha256": sha256(path / "model.onnx"),
    }
    write_json(path / "model.json", sidecar)
    return path


def graph(target: Target, inputs: dict, rng: np.random.Generator) -> onnx.ModelProto:
    """Mean of the pixels of each frame -> norm -> attention over frames -> mean -> classifier."""
    old = target.opset < 17
    norm = [("LayerNormalization", "norm", ["tokens", "one"], {})]
    if old:
        norm = [
            ("ReduceMean", "norm/mean", ["tokens"], {"axes": [-1]}),
            ("Sub", "norm/centred", ["tokens", "norm/mean"], {}),
            ("Mul", "norm/squares", ["norm/centred", "norm/centred"], {}),
            ("ReduceMean", "norm/variance", ["norm/squares"], {"axes": [-1]}),
            ("Add", "norm/safe", ["norm/variance", "one"], {}),
            ("Sqrt", "norm/deviation", ["norm/safe"], {}),
            ("Div", "norm", ["norm/centred", "norm/deviation"], {}),
        ]
    keys = [("Concat", "keys", ["norm", PROMPT], {"axis": 1})] if PROMPT in inputs else []
    key = "keys" if keys else "norm"
    steps = [
        ("Cast", "pixels", ["clip"], {"to": TensorProto.FLOAT}),
        ("ReduceMean", "tokens", ["pixels"], {"axes": [2, 3], "keepdims": 0}),
        *norm,
        *keys,
        ("Transpose", "turned", [key], {"perm": [0, 2, 1]}),
        ("MatMul", "scores", ["norm", "turned"], {}),
        ("Softmax", "softmax", ["scores"], {"axis": -1}),
        ("MatMul", "mixed", ["softmax", key], {}),
        ("ReduceMean", "pooled", ["mixed"], {"axes": [1], "keepdims": 0}),
        ("MatMul", "logits", ["pooled", "weight"], {}),
    ]
    nodes = [helper.make_node(kind, names, [out], name=out, **attributes) for kind, out, names, attributes in steps]
    constants = {"one": np.ones(3, np.float32), "weight": rng.normal(size=(3, 5)).astype(np.float32)}
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    ports = [
        helper.make_tensor_value_info(name, types[port["dtype"]], [size or "batch" for size in port["shape"]])
        for name, port in inputs.items()
    ]
    batch = inputs["clip"]["shape"][0] or "batch"
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "graph", ports, outputs, stored)
    opset = 13 if old else 17
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
