"""The compile gate, with the real TensorRT-RTX compiler, and the four graphs that must fail it."""

from __future__ import annotations

import sys

import onnx
import onnx.helper as oh
import pytest
import torch
from onnx import TensorProto

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.vit import Vit, VitConfig
from apt_edge.errors import AptEdgeError, ConfigError, GateError, MissingDependency
from export.engine.audit import audit
from export.engine.compiler import build, parse_layer_table
from export.to_engine import build_engine
from tests.conftest import TINY
from tests.export.test_export import export, target

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
HALF = target("float16", 5e-2, "tensorrt-rtx")


def test_every_attention_is_fused_and_every_prompt_is_there(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", chosen=HALF, tokens=8)
    first = build_engine(tmp_path / "m")
    plan = (tmp_path / "m" / "model.engine").read_bytes()
    assert (first["fused_attention"], first["attention"], first["prompt_constants"]) == (2, 2, 4)
    assert first["activation_bytes"] > 0
    assert len(plan) == first["plan_bytes"]
    assert build_engine(tmp_path / "m")["plan_sha256"] == first["plan_sha256"]


def test_partly_prompted_and_unprompted_models_pass(tiny_vit, tiny_clips, tmp_path):
    for method, settings, constants in [("apt", {"tokens": 8, "start": 1}, 2), ("linear", {}, 0)]:
        export(tiny_vit, tiny_clips, tmp_path / method, method, HALF, **settings)
        assert build_engine(tmp_path / method)["prompt_constants"] == constants


def test_float32_graph_fails(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", chosen=target("float32", compiler="tensorrt-rtx"), tokens=8)
    with pytest.raises(GateError, match="0 of 2 attentions are fused"):
        build_engine(tmp_path / "m")
    assert not (tmp_path / "m" / "model.engine").exists()


def test_exposed_attention_probabilities_fail(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", chosen=HALF, tokens=8)
    model = onnx.load(tmp_path / "m" / "model.onnx")
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(oh.make_tensor_value_info(softmax.output[0], TensorProto.FLOAT16, None))
    onnx.save(model, tmp_path / "exposed.onnx")
    built = build("tensorrt-rtx", tmp_path / "exposed.onnx")
    with pytest.raises(GateError, match="1 of 2 attentions are fused"):
        audit(built, 2, [])


def test_one_head_fails(tiny_clips, tmp_path):
    config = VitConfig(**{**TINY.__dict__, "width": 64, "heads": 1})
    torch.manual_seed(0)
    export(freeze(Vit(config)), tiny_clips, tmp_path / "m", chosen=HALF, tokens=8)
    with pytest.raises(GateError, match="0 of 2 attentions are fused"):
        build_engine(tmp_path / "m")


def test_attention_with_past_key_fails(tmp_path):
    tensors = {
        name: oh.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 2, length, 32])
        for name, length in {"q": 16, "k": 16, "v": 16, "pk": 8, "pv": 8, "y": 16, "ok": 24, "ov": 24}.items()
    }
    node = oh.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "ok", "ov"])
    graph = oh.make_graph([node], "past", [tensors[n] for n in ("q", "k", "v", "pk", "pv")], [tensors["y"]])
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)], ir_version=10), tmp_path / "past.onnx")
    with pytest.raises(AptEdgeError, match="cannot parse"):
        build("tensorrt-rtx", tmp_path / "past.onnx")


def test_a_lost_prompt_fails(tiny_vit, tiny_clips, tmp_path):
    _, sidecar = export(tiny_vit, tiny_clips, tmp_path / "m", chosen=HALF, tokens=8)
    built = build("tensorrt-rtx", tmp_path / "m" / "model.onnx")
    with pytest.raises(GateError, match="1 prompt constants are not in the engine"):
        audit(built, 2, [*sidecar["prompts"], "blocks.9.attn.prompt_key"])


def test_a_target_without_compiler_says_so(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", tokens=8)
    with pytest.raises(ConfigError, match="has no compiler"):
        build_engine(tmp_path / "m")


@pytest.mark.parametrize(("compiler", "module"), [("tensorrt-rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")])
def test_a_missing_compiler_names_the_package(tiny_vit, tiny_clips, tmp_path, monkeypatch, compiler, module):
    export(tiny_vit, tiny_clips, tmp_path / "m", chosen=HALF, tokens=8)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=rf"apt-edge\[{compiler}\]"):
        build_engine(tmp_path / "m", compiler)


def test_layer_table_with_names_that_hold_brackets():
    log = (
        "Layers:\nName: a[0], LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1] }], Constants: [ { Name: c_myl0, "
        "Dimensions: [1,2] }, { Name: d, Dimensions: [] }], Outputs: [ { Name: y }], TacticName: t\n"
        "Name: b, LayerType: gemm, Inputs: [], Constants: [], Outputs: [], TacticName: t"
    )
    layers = parse_layer_table(log)
    assert [layer.name for layer in layers] == ["a[0]", "b"]
    assert layers[0].constants == ("c_myl0", "d")
    assert layers[1].constants == ()
