"""CLIP as a video backbone, joint and per frame: equal to what it is defined as, and every method works on it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import backbone_hash, load_backbone, read_checkpoint, save_backbone
from apt_edge.backbone.forms import changed
from apt_edge.backbone.layouts import clip, find_layout
from apt_edge.backbone.layouts.base import Hints
from apt_edge.backbone.vit import SIZES, ExtraKV, Head, Vit, VitConfig
from apt_edge.errors import BackboneError, ConfigError, PackError
from apt_edge.methods import METHODS
from apt_edge.methods.base import Deployed
from apt_edge.methods.cost import LAYER_NORM, backbone_macs, backbone_parameters, head_macs
from apt_edge.methods.full import Full
from apt_edge.methods.vpt_deep import VptDeepTokens
from tests.apt_edge.clip_weights import (
    DEPTH,
    FORMS,
    HEADS,
    WIDTH,
    clips,
    converted,
    image_encoder,
    openai_names,
    tiny_clip,
)
from tests.apt_edge.methods.conftest import LABELS, double, fvcore_macs, rebuilt, tuned

every_form = pytest.mark.parametrize("form", FORMS)
METHOD_CASES = [
    ("apt", {"tokens": 4}),
    ("apt", {"tokens": 4, "start": 1, "reparam": "softplus"}),
    ("linear", {}),
    ("linear", {"head": "bn_linear"}),
    ("full", {}),
    ("vpt-deep", {"tokens": 4, "start": 1}),
    ("adaptformer", {"r": 8, "start": 1}),
    ("st-adapter", {"width": 24, "places": "both"}),
    ("lora", {"rank": 4, "start": 1}),
]
JOINT_ALONE = [("vpt-shallow", {"tokens": 4}), ("vpt-deep", {"tokens": 4, "pool": "all"})]
CASES = [("joint", *case) for case in METHOD_CASES + JOINT_ALONE] + [("per-frame", *case) for case in METHOD_CASES]
every_case = pytest.mark.parametrize(("form", "name", "settings"), CASES, ids=lambda value: str(value))


@torch.no_grad()
def test_per_frame_is_the_image_encoder_on_each_frame():
    """transformers' own class token before `post_layernorm`, averaged over the frames."""
    model, vit = image_encoder(), tiny_clip("per-frame")
    frames = clips("per-frame").transpose(1, 2)
    expected = torch.stack([model(frames[:, t]).last_hidden_state[:, 0] for t in range(frames.shape[1])], dim=1)
    found = vit(clips("per-frame"))
    assert found.shape == (3, 4, WIDTH)
    assert expected.abs().max() > 0.5
    assert (found - expected).abs().max() <= 1e-4
    head = Head(WIDTH, 5, eps=vit.config.pool_eps)
    pooled = F.layer_norm(expected.mean(dim=1), (WIDTH,), eps=1e-5)
    assert (head(found) - head.linear(pooled)).abs().max() <= 1e-6


def joint_by_hand(state: dict[str, Tensor], clip_BCTHW: Tensor) -> Tensor:
    """The joint form from OpenAI's tensors, step by step: the mean of two frames' patches, one token at a time slot."""
    two_BSCHW = clip_BCTHW.unflatten(2, (-1, 2)).mean(dim=3).transpose(1, 2)
    patches_BSCHW = torch.stack([F.conv2d(slot, state["conv1.weight"], stride=16) for slot in two_BSCHW.unbind(1)], 1)
    tokens_BSNC = patches_BSCHW.flatten(3).transpose(2, 3) + state["positional_embedding"][1:]
    x_BNC = F.layer_norm(tokens_BSNC.flatten(1, 2), (WIDTH,), state["ln_pre.weight"], state["ln_pre.bias"])
    for i in range(DEPTH):
        own = {k.removeprefix(f"transformer.resblocks.{i}."): v for k, v in state.items() if f".resblocks.{i}." in k}
        n_BNC = F.layer_norm(x_BNC, (WIDTH,), own["ln_1.weight"], own["ln_1.bias"])
        heads = (n_BNC @ own["attn.in_proj_weight"].T + own["attn.in_proj_bias"]).unflatten(2, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).exp()
        mixed = (weights / weights.sum(-1, keepdim=True) @ value).transpose(1, 2).flatten(2)
        x_BNC = x_BNC + mixed @ own["attn.out_proj.weight"].T + own["attn.out_proj.bias"]
        n_BNC = F.layer_norm(x_BNC, (WIDTH,), own["ln_2.weight"], own["ln_2.bias"])
        inner = n_BNC @ own["mlp.c_fc.weight"].T + own["mlp.c_fc.bias"]
        inner = inner / (1 + (-1.702 * inner).exp())
        x_BNC = x_BNC + inner @ own["mlp.c_proj.weight"].T + own["mlp.c_proj.bias"]
    return x_BNC


@torch.no_grad()
def test_joint_is_what_it_is_defined_as():
    state = {name: tensor.double() for name, tensor in openai_names(image_encoder()).items()}
    vit, clip_BCTHW = tiny_clip("joint").double(), clips("joint").double()
    expected = joint_by_hand(state, clip_BCTHW)
    assert vit(clip_BCTHW).shape == (3, 16, WIDTH)
    assert (vit(clip_BCTHW) - expected).abs().max() <= 1e-6  # the filter was halved in float32
    assert expected.abs().max() > 0.5


@pytest.mark.parametrize("prefix", ["", "visual."])
@every_form
def test_the_image_encoder_is_found_alone_and_beside_the_text_encoder(form, prefix):
    tensors = openai_names(image_encoder(), prefix)
    if prefix:
        tensors |= {
            "positional_embedding": torch.zeros(77, 32),
            "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(96, 32),
            "token_embedding.weight": torch.zeros(9, 32),
            "logit_scale": torch.zeros(()),
        }
    assert find_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "the file") == "clip"
    found = converted(form, tensors)
    vit = Vit(found.config)
    vit.load_state_dict(found.tensors)
    assert found.tensors.keys() - found.used.keys() == {"patch.bias"}
    named = {part for names in found.used.values() for part in names.split(" + ")}
    assert named | found.ignored.keys() == tensors.keys()
    assert not named & found.ignored.keys()
    assert "trained anew" in found.ignored[f"{prefix}ln_post.weight"]
    if prefix:
        assert found.ignored["transformer.resblocks.0.attn.in_proj_weight"] == "the text encoder"
    assert (f"{prefix}class_embedding" in found.ignored) == (form == "joint")
    assert not found.missing
    assert any("own definition" in text and "--clip-form" in text for text in found.warnings)
    assert any(f"clip.mean = {list(clip.CLIP_MEAN)}" in text for text in found.warnings)


def archive(tensors: dict[str, Tensor]) -> torch.jit.ScriptModule:
    """Modules without code that hold the tensors under their dotted names."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return torch.jit.script(root)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_form
def test_the_archive_that_openai_publishes_is_read(form, tmp_path):
    """TorchScript in float16."""
    tensors = {name: tensor.half() for name, tensor in openai_names(image_encoder(), "visual.").items()}
    torch.jit.save(archive({**tensors, "token_embedding.weight": torch.zeros(9, 32)}), tmp_path / "ViT.pt")
    found = read_checkpoint(tmp_path / "ViT.pt", heads=HEADS, frames=FORMS[form], clip_form=form)
    expected = converted(form, tensors)
    assert found.config == expected.config
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in found.tensors.items())


def test_weights_that_are_not_clips_are_refused():
    tensors = openai_names(image_encoder())
    with pytest.raises(BackboneError, match="no form"):
        clip.convert(tensors, Hints(heads=HEADS, clip_form="sideways"))
    with pytest.raises(BackboneError, match="do not fit frames of 64 pixels"):
        clip.convert(tensors, Hints(heads=HEADS, size=64))
    with pytest.raises(BackboneError, match="something else"):
        clip.convert({**tensors, "transformer.resblocks.1.S_Adapter.D_fc1.weight": torch.zeros(1)}, Hints(heads=HEADS))
    lacking = {
        k: v for k, v in tensors.items() if k not in ("ln_pre.bias", "transformer.resblocks.1.attn.in_proj_bias")
    }
    assert converted("joint", lacking).missing == ["ln_pre.bias", "transformer.resblocks.1.attn.in_proj_bias"]
    half = converted("joint", {name: tensor.half() for name, tensor in tensors.items()})
    assert half.tensors["blocks.0.fc1.weight"].dtype == torch.float16
    assert half.tensors["positions"].dtype == torch.float32


def test_families_and_forms_that_do_not_exist_are_refused():
    for settings in ({"family": "dino"}, {"per_frame": True}):
        with pytest.raises(ConfigError, match="form of the family"):
            Vit(VitConfig(64, 1, 2, frames=4, size=32, **settings))


@every_form
def test_both_forms_are_saved_and_are_different_backbones(form, tmp_path):
    vit = tiny_clip(form)
    save_backbone(tmp_path / "clip.safetensors", vit)
    again = load_backbone(tmp_path / "clip.safetensors")
    assert again.config == vit.config
    assert backbone_hash(again) == backbone_hash(vit)
    assert torch.equal(again(clips(form)), vit(clips(form)))
    assert backbone_hash(vit) != backbone_hash(tiny_clip({"joint": "per-frame"}.get(form, "joint")))


@every_form
@torch.no_grad()
def test_the_key_bias_matters_beside_constants_and_not_without_them(form):
    vit = tiny_clip(form).double()
    without, x = copy.deepcopy(vit), vit.embed(clips(form).double())
    for index in range(DEPTH):
        without.block(index).attn.k_bias.data.zero_()
    key, value = torch.randn(2, 1, HEADS, 6, WIDTH // HEADS, dtype=torch.float64)
    extra = {index: ExtraKV(key, value) for index in range(DEPTH)}
    bias = {i: vit.block(i).attn.k_bias.reshape(1, HEADS, 1, -1) for i in range(DEPTH)}
    assert min(tensor.abs().max() for tensor in bias.values()) > 0.1
    assert (vit.run_blocks(x) - without.run_blocks(x)).abs().max() <= 1e-12
    expected = vit.run_blocks(x, extra)
    assert (without.run_blocks(x, extra) - expected).abs().max() > 1e-3
    shifted = {index: ExtraKV(key - bias[index], value) for index in range(DEPTH)}
    assert (without.run_blocks(x, shifted) - expected).abs().max() <= 1e-12


@every_form
@torch.no_grad()
def test_constants_of_each_clip_are_those_of_all_its_time_steps(form):
    vit, x = tiny_clip(form), tiny_clip(form).embed(clips(form))
    kv = torch.randn(2, 3, 1, 5, WIDTH // HEADS)
    together = vit.run_blocks(x, {1: ExtraKV(*kv)})
    for row in range(3):
        alone = vit.run_blocks(x[row : row + 1], {1: ExtraKV(*kv[:, row : row + 1])})
        assert (alone - together[row : row + 1]).abs().max() <= 1e-5


@torch.no_grad()
def test_time_steps_do_not_see_each_other():
    vit, changed_clips = tiny_clip("per-frame"), clips("per-frame")
    before = vit(changed_clips)
    changed_clips[:, :, 2] += 1
    moved = (vit(changed_clips) - before).abs().amax(dim=(0, 2))
    assert moved[2] > 0.01
    assert moved[[0, 1, 3]].max() == 0


@every_case
@torch.no_grad()
def test_what_is_deployed_is_what_was_trained(form, name, settings):
    vit, clip_BCTHW = tiny_clip(form), clips(form).double()
    model = double(tuned(vit, name, **settings))
    expected = model(clip_BCTHW)
    assert expected.abs().max() > 0.5
    deployed = model.method.deploy(model.vit)
    assert (rebuilt(vit, model, deployed)(clip_BCTHW) - expected).abs().max() <= 1e-10
    if model.method.folds:
        published = VptDeepTokens(model.vit, model.method, model.head)(clip_BCTHW) if name == "vpt-deep" else expected
        assert (rebuilt(vit, model, deployed)(clip_BCTHW) - published).abs().max() <= 1e-12
        for block, (key, value, _) in deployed.kv.items():
            wrong = Deployed({**deployed.kv, block: ExtraKV(1.1 * key, value)})
            assert (rebuilt(vit, model, wrong)(clip_BCTHW) - expected).abs().max() > 1e-8
    kept = model.prefix(clip_BCTHW)
    assert tuple(kept.shape[1:]) == model.prefix_shape()
    assert (model(kept, from_prefix=True) - expected).abs().max() <= 1e-12


@every_case
def test_every_method_trains(form, name, settings):
    model = tuned(tiny_clip(form), name, **settings).train()
    loss = F.cross_entropy(model(clips(form)), torch.tensor([0, 1, 2]))
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter_name != "method.scale":
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name


@every_case
def test_macs_are_what_fvcore_counts_on_the_modules(form, name, settings):
    vit = tiny_clip(form)
    model = tuned(vit, name, **{key: value for key, value in settings.items() if key != "head"})
    rest = backbone_macs(vit.config) + head_macs(vit.config, len(LABELS))
    published = VptDeepTokens(model.vit, model.method, model.head) if name == "vpt-deep" else model
    assert fvcore_macs(published, vit.config) == rest + model.method.added_macs(deployed=False)
    assert fvcore_macs(rebuilt(vit, model), vit.config) == rest + model.method.added_macs(deployed=True)


@every_form
def test_sizes_are_counted_by_the_closed_form(form):
    config = SIZES["clip-vit-base" if form == "joint" else "clip-vit-base-per-frame"]
    with torch.device("meta"):
        assert backbone_parameters(config) == sum(p.numel() for p in Vit(config).parameters())
    assert config.tokens == (1568 if form == "joint" else 8 * 197)
    if form == "per-frame":  # what AIM and ST-Adapter start from, counted without norms
        assert round((backbone_macs(config) - 25 * LAYER_NORM * config.tokens * 768) / 1e9, 2) == 140.50


def test_a_key_bias_has_a_gradient_beside_constants():
    vit = tiny_clip("joint").requires_grad_(True)
    kv = torch.randn(2, 1, 1, 5, WIDTH // HEADS)
    vit.run_blocks(vit.embed(clips("joint")), {0: ExtraKV(*kv)}).square().sum().backward()
    assert vit.block(0).attn.k_bias.grad.abs().max() > 1e-6


def test_what_makes_no_sense_on_clip_is_refused_with_the_reason():
    joint, per_frame = tiny_clip("joint").config, tiny_clip("per-frame").config
    for config in (joint, per_frame):
        with pytest.raises(ConfigError, match="another activation"):
            METHODS["aim"](config)
    with pytest.raises(ConfigError, match="no per-frame form"):
        METHODS["vpt-shallow"](per_frame, tokens=4)
    with pytest.raises(ConfigError, match="class tokens"):
        METHODS["vpt-deep"](per_frame, tokens=4, pool="all")
    with pytest.raises(PackError, match="has no GELU"):
        changed(tiny_clip("joint"), "serial", {})
    with pytest.raises(PackError, match="attends to itself alone"):
        changed(tiny_clip("per-frame"), "tokens", {"module.0.tokens": torch.zeros(4, WIDTH)})


def test_rates_fall_to_the_positions_too():
    method = Full(tiny_clip("joint").config, layer_decay=0.5)
    assert method.rate_factor("vit.positions") == method.rate_factor("vit.norm_pre.bias") == 0.5**4
    assert method.rate_factor("vit.blocks.2.attn.k_bias") == 0.5
