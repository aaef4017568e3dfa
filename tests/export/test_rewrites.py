"""Every exact rewrite: equal in float64, and worth what it claims."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx import helper as oh
from torch import nn

from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import ExtraKV
from apt_edge.methods.vpt_deep import VptDeepTokens
from apt_edge.video.preprocess import normalise
from export import rewrites
from export.graph import attention, patches, pooling, prompts
from export.graph.dialect import Form, untyped
from export.graph.rules import tidy
from export.graph.trace import TaskInputs, constants, trace
from export.rewrites import Pixels
from export.target import Prompts
from tests.apt_edge.methods.conftest import CLIP, SMALL, clips, double, rebuilt, tuned, vit
from tests.conftest import TINY_CLIP, tiny_model
from tests.export.test_forms import FORMS

__all__ = ["clips", "vit"]  # fixtures
every_form = pytest.mark.parametrize("form", FORMS)


def form_in_float64(vit, form) -> FoldedModel:
    name, settings = FORMS[form]
    return rebuilt(vit, double(tuned(vit, name, **settings)))


@every_form
@torch.no_grad()
def test_the_scale_in_the_query_weights_is_exact(vit, clips, form):
    model = form_in_float64(vit, form)
    changed = copy.deepcopy(model)
    rewrites.scale_queries(changed)
    assert all(changed.vit.block(index).attn.scale == 1 for index in range(3))
    assert (changed(clips.double()) - model(clips.double())).abs().max() < 1e-11


@every_form
@torch.no_grad()
def test_the_positions_with_the_patch_bias_are_exact(vit, clips, form):
    model = form_in_float64(vit, form)
    model.vit.patch.bias.data += 1
    changed = copy.deepcopy(model)
    rewrites.join_positions(changed)
    assert changed.vit.patch.bias is None
    assert (changed(clips.double()) - model(clips.double())).abs().max() < 1e-11


@every_form
@torch.no_grad()
def test_the_pooled_norm_in_the_classifier_is_exact(vit, clips, form):
    model = form_in_float64(vit, form)
    nn.init.normal_(model.head.norm.weight)
    nn.init.normal_(model.head.norm.bias)
    changed = copy.deepcopy(model)
    rewrites.absorb_head_norm(changed)
    assert (changed.head.norm.weight == 1).all()
    assert (changed(clips.double()) - model(clips.double())).abs().max() < 1e-11


@every_form
@torch.no_grad()
def test_the_normalisation_in_the_patch_convolution_is_exact(vit, form):
    """Against float64 arithmetic on the pixels: `normalise` itself rounds to float32."""
    model = form_in_float64(vit, form)
    frames = np.random.default_rng(0).integers(0, 256, (2, CLIP.frames, CLIP.size, CLIP.size, 3))
    pixels = torch.from_numpy(frames).double().permute(0, 4, 1, 2, 3)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None, None] for values in (CLIP.mean, CLIP.std))
    changed = copy.deepcopy(model)
    rewrites.absorb_pixels(changed, CLIP)
    assert (changed(pixels) - model((pixels / 255 - mean) / std)).abs().max() < 1e-11


@torch.no_grad()
def test_pixels_in_the_graph_are_the_hosts(tiny_frames):
    made = Pixels(TINY_CLIP, normalise=True)(torch.from_numpy(tiny_frames)).numpy()
    assert np.abs(made - np.stack([normalise(frames, TINY_CLIP) for frames in tiny_frames])).max() < 1e-6


def evaluated(graph: ir.Model, clip: np.ndarray) -> np.ndarray:
    """Logits of a float64 graph, by ONNX's own reference evaluation."""
    return onnx.reference.ReferenceEvaluator(ir.to_proto(graph)).run(None, {"clip": clip})[0]


@every_form
def test_the_mean_before_the_last_layer_is_exact(vit, clips, form):
    model = form_in_float64(vit, form)
    graph = trace(TaskInputs(model, None), clips[:1].double())
    values = constants(TaskInputs(model, None))
    before = untyped_without_pooling(graph, values)
    after = before.clone()
    assert pooling.push(after)
    tidy(after)
    assert (
        np.abs(evaluated(before, clips[:1].double().numpy()) - evaluated(after, clips[:1].double().numpy())).max()
        < 1e-11
    )
    products = (node for node in reversed(list(after.graph)) if node.op_type == "MatMul")
    layer = next(node for node in products if not prompts.reads_head(node))
    assert layer.outputs[0].shape == ir.Shape([1, 1, SMALL.width])  # one row instead of one a token


def test_the_patch_embedding_as_a_product_is_exact(vit, clips):
    model = form_in_float64(vit, "override")
    rewrites.join_positions(model)
    module = TaskInputs(model, None)
    before = untyped_without_pooling(trace(module, clips[:1].double()), constants(module))
    after = before.clone()
    patches.as_product(after)
    tidy(after)
    clip = clips[:1].double().numpy()
    assert np.abs(evaluated(before, clip) - evaluated(after, clip)).max() < 1e-11
    assert not any(node.op_type == "Conv" for node in after.graph)


def untyped_without_pooling(graph: ir.Model, values) -> ir.Model:
    graph = graph.clone()
    prompts.place(graph, values, Prompts())
    tidy(graph)
    return graph


def test_the_mean_before_the_last_layer_works_for_tokens_too(tiny_vit, tiny_clips):
    tuned_model = tiny_model(tiny_vit, "vpt-deep", tokens=4)
    model = VptDeepTokens(tiny_vit, tuned_model.method, tuned_model.head).double().requires_grad_(False)
    tiny_vit.positions = tiny_vit.positions.double()
    clip = torch.from_numpy(tiny_clips[:1]).double()
    before = trace(TaskInputs(model, None), clip)
    after = before.clone()
    assert pooling.push(after)
    tidy(after)
    assert np.abs(evaluated(before, clip.numpy()) - evaluated(after, clip.numpy())).max() < 1e-11


def prompted_in_float64(vit) -> FoldedModel:
    """The form that `FORMS` leaves out: a backbone as it was, with prompts in the attention of every block."""
    return rebuilt(vit, double(tuned(vit, "apt", tokens=8)))


@pytest.mark.parametrize("form", [*FORMS, "prompts"])
def test_the_dialects_are_one_model_in_float64(vit, clips, form):
    """`attention` against `decomposed`; ONNX Runtime's own operator has float32 kernels alone."""
    model = prompted_in_float64(vit) if form == "prompts" else form_in_float64(vit, form)
    rewrites.scale_queries(model)
    module = TaskInputs(model.requires_grad_(False), None)
    clip = clips[:1].double()
    graph = trace(module, clip)
    found = [
        evaluated(untyped(graph, constants(module), Prompts(), Form("float32", dialect, opset))[0], clip.numpy())
        for dialect, opset in [("decomposed", 20), ("decomposed", 17), ("decomposed", 13), ("attention", 23)]
    ]
    assert np.abs(found[0] - model(clip).numpy()).max() < 1e-6  # ONNX keeps a norm's epsilon in float32
    for other in found[1:]:
        assert np.abs(other - found[0]).max() < 1e-11


@torch.no_grad()
def test_a_key_bias_may_go_only_if_it_goes_from_the_prompts_too(tiny_vit, tiny_clips):
    """A bias on every video key shifts all scores of a query alike, unless prompts stand beside them without it."""
    vit = tiny_vit.double()
    layer = vit.block(0).attn
    vit.positions = vit.positions.double()
    query, key, value = layer.project(vit.embed(torch.from_numpy(tiny_clips).double()))
    generator = torch.Generator().manual_seed(0)
    bias, prompt = (torch.randn(1, 2, size, 32, generator=generator, dtype=torch.float64) for size in (1, 8))
    alone = layer.attend(query, key + bias, value)
    assert (layer.attend(query, key, value) - alone).abs().max() < 1e-12
    prompted = layer.attend(query, key + bias, value, ExtraKV(prompt, prompt))
    assert (layer.attend(query, key, value, ExtraKV(prompt, prompt)) - prompted).abs().max() > 1e-2
    assert (layer.attend(query, key, value, ExtraKV(prompt - bias, prompt)) - prompted).abs().max() < 1e-12


def contrib_model(form: str) -> onnx.ModelProto:
    """ONNX Runtime's MultiHeadAttention with 2 heads and two more keys: joined before it, or as its past."""
    tokens = {"q": 4, "k": 4, "v": 4}
    ports = [oh.make_tensor_value_info(name, TensorProto.FLOAT, [1, length, 64]) for name, length in tokens.items()]
    past = [oh.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 2, 32]) for name in ("pk", "pv")]
    output = oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 64])
    inputs = ["q", "k", "v"] if form == "none" else ["q", "k", "v", "", "", "", "pk", "pv"]
    graph_nodes = []
    if form == "joined":
        for name in ("k", "v"):
            graph_nodes += [
                oh.make_node("Transpose", [f"p{name}"], [f"{name}t"], perm=[0, 2, 1, 3]),
                oh.make_node("Reshape", [f"{name}t", "shape"], [f"{name}3"]),
                oh.make_node("Concat", [f"{name}3", name], [f"{name}x"], axis=1),
            ]
        inputs = ["q", "kx", "vx"]
    graph_nodes.append(oh.make_node("MultiHeadAttention", inputs, ["y"], domain="com.microsoft", num_heads=2))
    shape = oh.make_tensor("shape", TensorProto.INT64, [3], [0, 0, -1])
    graph = oh.make_graph(graph_nodes, form, [*ports, *past], [output], [shape])
    opsets = [oh.make_opsetid("", 20), oh.make_opsetid("com.microsoft", 1)]
    return oh.make_model(graph, opset_imports=opsets, ir_version=10)


def test_the_contrib_operator_forgets_its_past_and_is_never_written_with_one(tiny_vit, tiny_clips):
    generator = np.random.default_rng(0)
    feeds = {name: generator.normal(size=(1, 4, 64)).astype(np.float32) for name in ("q", "k", "v")}
    feeds |= {name: generator.normal(size=(1, 2, 2, 32)).astype(np.float32) for name in ("pk", "pv")}
    none, past, joined = (
        onnxruntime.InferenceSession(contrib_model(form).SerializeToString()).run(None, feeds)[0]
        for form in ("none", "past", "joined")
    )
    assert np.abs(joined - none).max() > 1e-2
    assert not np.abs(past - joined).max() < 1e-2  # ONNX Runtime runs it without a word, and the prompts are lost
    tuned_model = tiny_model(tiny_vit, tokens=8)
    model = FoldedModel(tiny_vit, tuned_model.head, tuned_model.method.fold(tiny_vit)).requires_grad_(False)
    module = TaskInputs(rewrites.rewritten(model, None), None)
    graph = trace(module, torch.from_numpy(tiny_clips[:1]))
    for mode in (Prompts(), Prompts(mode="bound")):
        written, count = untyped(graph, constants(module), mode, Form("float32", "multi-head", 20))
        found = [node for node in written.graph if node.domain == attention.CONTRIB]
        assert count == len(found) == 2
        assert all((len(node.inputs), len(node.outputs)) == (3, 1) for node in found)
        assert all(len(value.shape) == 3 for node in found for value in node.inputs)
