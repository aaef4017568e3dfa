"""CLIP as a video backbone on its way to the device: joint and per frame, the graph is the model and stays fused."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import load_file

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.methods.cost import backbone_macs, head_macs
from apt_edge.methods.tuned import TunedModel
from bench.graph import graph_macs
from export import rewrites
from export.graph.dialect import Form, untyped
from export.graph.trace import TaskInputs, constants, trace
from export.model import Export
from export.target import Prompts
from tests.apt_edge.clip_weights import DEPTH, FORMS, SIZE, clips, tiny_clip
from tests.apt_edge.methods.conftest import LABELS, double, rebuilt, tuned
from tests.export.exporting import logits, target

every_form = pytest.mark.parametrize("form", FORMS)
METHODS = {
    "apt": {"tokens": 8},
    "vpt-deep": {"tokens": 8, "start": 1},
    "linear": {},
    "lora": {"rank": 4},
    "adaptformer": {"r": 8},
    "st-adapter": {"width": 24},
}
CASES = [(form, name) for form in FORMS for name in METHODS] + [("joint", "vpt-shallow")]
every_case = pytest.mark.parametrize(("form", "name"), CASES)


def clip_spec(form: str) -> ClipSpec:
    return ClipSpec(frames=FORMS[form], size=SIZE, sampling="segments")


@cache  # one trace for all targets
def prepared(form, name, count):
    """A random model as it was trained, and the export of its deployed form."""
    settings = METHODS.get(name, {"tokens": 8})
    vit, spec = tiny_clip(form), clip_spec(form)
    model = tuned(vit, name, **settings)
    for parameter in model.method.parameters():
        parameter.data.mul_(0.5)
    frames = np.random.default_rng(0).integers(0, 256, (count, spec.frames, SIZE, SIZE, 3), dtype=np.uint8)
    folded = rebuilt(vit, model).requires_grad_(False)
    return model, Export(folded, frames=frames, clip=spec, labels=tuple(LABELS), facts={"method": name})


def exported(form, name, out, chosen, count=2):
    """The deployed form of a random model, exported; returns the trained model, the export and the sidecar."""
    model, export = prepared(form, name, count)
    return model, export, export.to(chosen, out)


@every_case
def test_float32_graph_is_the_model_at_the_stated_cost(tmp_path, form, name):
    model, _, sidecar = exported(form, name, tmp_path / "m", target())
    assert sidecar["parity"]["max_abs"] < 1e-4 * max(1, sidecar["parity"]["max_logit"])
    assert sidecar["parity"]["max_logit"] > 0.5
    assert sidecar["attention"] == DEPTH
    assert "Sigmoid" in sidecar["ops"]
    assert graph_macs(tmp_path / "m" / "model.onnx") == stated(model, 8 if name == "adaptformer" else 0)


def stated(model: TunedModel, beside: int = 0) -> int:
    """MACs of the deployed form, its last layer on one row; `beside` is the width of what is merged into that layer."""
    config = model.vit.config
    every = backbone_macs(config) + head_macs(config, len(LABELS)) + model.method.added_macs(deployed=True)
    return every - (config.tokens - 1) * config.width * (config.hidden + beside)


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[1] in ("apt", "vpt-deep", "vpt-shallow")])
def test_every_attention_is_fused_in_float16(tmp_path, form, name):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    _, _, sidecar = exported(form, name, tmp_path / "m", target("tensorrt-rtx"))
    assert (sidecar["gate"]["fused_attention"], sidecar["gate"]["attention"]) == (DEPTH, DEPTH)
    assert sidecar["gate"]["prompt_constants"] == len(sidecar["prompts"])


@every_form
@pytest.mark.parametrize("name", ["apt", "vpt-deep"])
@torch.no_grad()
def test_the_dialects_are_one_model_in_float64(form, name):
    """`attention` against `decomposed`; ONNX Runtime's own operator has float32 kernels alone."""
    vit = tiny_clip(form)
    model = rebuilt(vit, double(tuned(vit, name, **METHODS[name])))
    module = TaskInputs(rewrites.rewritten(model, None).requires_grad_(False), None)
    clip = clips(form)[:1].double()
    graph = trace(module, clip)
    for dialect, opset, pooled in [("decomposed", 20, False), ("decomposed", 13, True), ("attention", 23, False)]:
        written, _ = untyped(graph, constants(module), Prompts(), Form("float32", dialect, opset), early_pooling=pooled)
        found = onnx.reference.ReferenceEvaluator(ir.to_proto(written)).run(None, {"clip": clip.numpy()})[0]
        assert np.abs(found - model(clip).numpy()).max() < 1e-6  # ONNX keeps a norm's epsilon in float32


@torch.no_grad()
def test_a_patch_bias_goes_into_the_patches_positions_alone():
    """OpenAI's patches have no bias; full tuning gives them one."""
    vit = tiny_clip("per-frame").double()
    vit.patch.bias.data.normal_()
    model = rebuilt(vit, double(tuned(vit, "linear")))
    expected = model(clips("per-frame").double())
    rewrites.join_positions(model)
    assert model.vit.patch.bias is None
    assert (model(clips("per-frame").double()) - expected).abs().max() < 1e-12


@every_form
@pytest.mark.parametrize(("page", "tolerance"), [("onnxruntime-cpu", 1e-4), ("onnxruntime-cuda", 0.05)])
@pytest.mark.parametrize("mode", ["folded", "bound"])
def test_a_free_batch_axis_gives_each_clip_its_own_logits(tmp_path, form, page, tolerance, mode):
    chosen = target(page, "gate=none", "batch.opt=2", "batch.max=3", f"prompts.mode={mode}")
    model, export, sidecar = exported(form, "apt", tmp_path / "m", chosen, count=3)
    assert sidecar["inputs"]["clip"]["shape"][0] is None
    prompts = load_file(tmp_path / "m" / "prompts.safetensors") if mode == "bound" else {}
    for rows in (1, 2, 3):
        found = logits(tmp_path / "m", {"clip": export.frames[:rows], **prompts})
        assert np.abs(found - export.reference[:rows]).max() < tolerance * max(1, np.abs(export.reference).max())
    assert graph_macs(tmp_path / "m" / "model.onnx") == stated(model)


@every_form
@pytest.mark.parametrize("page", ["tensorrt-rtx", "onnxruntime-cuda"])
def test_a_free_batch_axis_compiles_fused(tmp_path, form, page):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    _, _, sidecar = exported(form, "apt", tmp_path / "m", target(page, "batch.opt=2", "batch.max=3"))
    assert sidecar["gate"]["fused_attention"] == DEPTH


def test_prompts_of_each_clip_are_refused_where_time_steps_attend_apart(tmp_path):
    chosen = target("onnxruntime-cpu", "batch.opt=2", "batch.max=2", "prompts.mode=bound", "prompts.per_row=true")
    exported("joint", "apt", tmp_path / "joint", chosen)
    with pytest.raises(ConfigError, match="attend apart"):
        exported("per-frame", "apt", tmp_path / "per-frame", chosen)


@every_form
def test_linear_layers_can_be_int8(tmp_path, form):
    chosen = target("onnxruntime-cpu", "int8=true", "int8_tolerance.max_abs=1", "int8_tolerance.kl=1")
    _, _, sidecar = exported(form, "apt", tmp_path / "m", chosen, count=8)
    assert sidecar["int8"]["layers"] >= 3 * DEPTH
