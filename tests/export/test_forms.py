"""Changed backbones on the way to the device: the graph is the model, costs what it should, and stays fused."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch

from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.methods.cost import backbone_macs, head_macs
from bench.graph import graph_macs
from export.to_engine import build_engine
from export.to_onnx import export_model
from export.graph.trace import scaled_queries
from tests.apt_edge.methods.conftest import CLIP, LABELS, SMALL, clips, double, rebuilt, tuned, vit
from tests.conftest import tiny_pack
from tests.export.test_export import target

__all__ = ["clips", "vit"]  # fixtures

FORMS = {
    "override": ("full", {}),
    "low-rank": ("lora", {"rank": 4}),
    "parallel": ("adaptformer", {"r": 8}),
    "serial": ("aim", {}),
    "temporal": ("st-adapter", {"width": 24, "places": "both"}),
    "tokens": ("vpt-shallow", {"tokens": 8}),
    "tokens, pooled": ("vpt-deep", {"tokens": 8, "pool": "all"}),
    "folded head": ("linear", {"head": "bn_linear"}),
}
every_form = pytest.mark.parametrize("form", FORMS)


def exported(vit, clips, out, form, chosen):
    """The deployed form of a random model, exported; returns the model that was trained and the sidecar."""
    name, settings = FORMS[form]
    model = tuned(vit, name, **settings)
    for parameter in model.method.parameters():
        parameter.data.mul_(0.5)  # six random adapters one behind the other would leave float16's range
    folded = rebuilt(vit, model).requires_grad_(False)
    sidecar = export_model(
        folded, out, chosen, clips=clips.numpy(), clip=CLIP, labels=tuple(LABELS), facts={"method": name}
    )
    return model, sidecar


@every_form
def test_float32_graph_is_the_model_at_the_stated_cost(vit, clips, tmp_path, form):
    model, sidecar = exported(vit, clips, tmp_path / "m", form, target())
    assert sidecar["parity"]["max_abs"] < 1e-4 * max(1, sidecar["parity"]["max_logit"])
    assert sidecar["parity"]["max_logit"] > 0.5
    assert sidecar["attention"] == 3
    rest = backbone_macs(SMALL) + head_macs(SMALL, len(LABELS))
    assert graph_macs(tmp_path / "m" / "model.onnx") == rest + model.method.added_macs(deployed=True)


@every_form
def test_every_attention_is_fused_in_float16_and_norms_stay_float32(vit, clips, tmp_path, form):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    _, sidecar = exported(vit, clips, tmp_path / "m", form, target("float16", 5e-2, "tensorrt-rtx"))
    report = build_engine(tmp_path / "m")
    assert (report["fused_attention"], report["attention"]) == (3, 3)
    assert report["prompt_constants"] == len(sidecar["prompts"])
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m" / "model.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
        if node.op_type in ("Softmax", "Conv"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT16


@every_form
@torch.no_grad()
def test_scaled_queries_are_exact(vit, clips, form):
    name, settings = FORMS[form]
    model = rebuilt(vit, double(tuned(vit, name, **settings)))
    scaled = FoldedModel(scaled_queries(model.vit), model.head, model.extra)
    assert all(scaled.vit.block(index).attn.scale == 1 for index in range(3))
    assert (scaled(clips.double()) - model(clips.double())).abs().max() < 1e-11


def test_a_pack_with_a_form_is_exported_like_any_other(tiny_vit, tiny_clips, tmp_path):
    from tests.conftest import TINY_CLIP

    pack = tiny_pack(tiny_vit, "adaptformer", r=8, start=1)
    model = folded_model(pack, copy.deepcopy(tiny_vit))
    sidecar = export_model(
        model, tmp_path / "m", target(), clips=tiny_clips, clip=TINY_CLIP, labels=tuple(pack.labels), facts={}
    )
    assert sidecar["parity"]["max_abs"] < 1e-4 * max(1, sidecar["parity"]["max_logit"])
    assert sidecar["prompts"] == []
