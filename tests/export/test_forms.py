"""Changed backbones on the way to the device: the graph is the model, costs what it should, and stays fused."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest

from apt_edge.backbone.folded import folded_model
from apt_edge.methods.cost import backbone_macs, head_macs
from apt_edge.methods.tuned import TunedModel
from bench.graph import graph_macs
from export.model import Export
from tests.apt_edge.methods.conftest import CLIP, LABELS, SMALL, rebuilt, tuned, vit
from tests.conftest import tiny_pack
from tests.export.exporting import target, tiny_export

__all__ = ["vit"]  # a fixture

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


PREPARED: dict[str, tuple[TunedModel, Export]] = {}  # one trace for all targets


def exported(vit, out, form, chosen):
    """The deployed form of a random model, exported; returns the model that was trained and the sidecar."""
    if form not in PREPARED:
        name, settings = FORMS[form]
        model = tuned(vit, name, **settings)
        for parameter in model.method.parameters():
            parameter.data.mul_(0.5)  # six random adapters one behind the other would leave float16's range
        folded = rebuilt(vit, model).requires_grad_(False)
        frames = np.random.default_rng(0).integers(0, 256, (2, CLIP.frames, CLIP.size, CLIP.size, 3), dtype=np.uint8)
        export = Export(folded, frames=frames, clip=CLIP, labels=tuple(LABELS), facts={"method": name})
        PREPARED[form] = model, export
    model, export = PREPARED[form]
    return model, export.to(chosen, out)


@every_form
def test_float32_graph_is_the_model_at_the_stated_cost(vit, tmp_path, form):
    model, sidecar = exported(vit, tmp_path / "m", form, target())
    assert sidecar["parity"]["max_abs"] < 1e-4 * max(1, sidecar["parity"]["max_logit"])
    assert sidecar["parity"]["max_logit"] > 0.5
    assert sidecar["attention"] == 3
    rest = backbone_macs(SMALL) + head_macs(SMALL, len(LABELS))
    stated = rest + model.method.added_macs(deployed=True)
    assert graph_macs(tmp_path / "m" / "model.onnx") == stated - pooled(form)


def pooled(form: str) -> int:
    """MACs that pooling before the last layer saves: all its rows but one, merged adapters included."""
    rows = SMALL.tokens + (8 if form == "tokens, pooled" else 0)
    beside = {"parallel": 8, "serial": SMALL.width // 4}.get(form, 0)
    return (rows - 1) * SMALL.width * (SMALL.mlp_ratio * SMALL.width + beside)


@every_form
def test_every_attention_is_fused_in_float16_and_norms_stay_float32(vit, tmp_path, form):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    _, sidecar = exported(vit, tmp_path / "m", form, target("tensorrt-rtx"))
    report = sidecar["gate"]
    assert (report["fused_attention"], report["attention"]) == (3, 3)
    assert report["prompt_constants"] == len(sidecar["prompts"])
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m" / "model.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
        if node.op_type in ("Softmax", "Conv"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT16


def test_a_pack_with_a_form_is_exported_like_any_other(tiny_vit, tiny_frames, tmp_path):
    pack = tiny_pack(tiny_vit, "adaptformer", r=8, start=1)
    sidecar = tiny_export(folded_model(pack, copy.deepcopy(tiny_vit)), tiny_frames).to(target(), tmp_path / "m")
    assert sidecar["parity"]["max_abs"] < 1e-4 * max(1, sidecar["parity"]["max_logit"])
    assert sidecar["prompts"] == []
