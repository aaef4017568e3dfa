"""Checkpoints of others: every wrapper and layout gives the same backbone, and every trap is seen."""

from __future__ import annotations

import json

import pytest
import torch

from apt_edge.backbone.checkpoints import backbone_hash, load_backbone, read_checkpoint, save_backbone, write_backbone
from apt_edge.backbone.layers import sincos_positions
from apt_edge.backbone.layouts.base import Hints, choose_heads
from apt_edge.backbone.vit import Vit
from apt_edge.errors import BackboneError
from tests.apt_edge.foreign import SHORT, adaptformer, apt, beside, official, pretrained, tokens_of

CLIP = torch.randn((2, 3, 4, 32, 32), generator=torch.Generator().manual_seed(5))


def loaded(path, **forced) -> Vit:
    """The backbone at `path` for the short clips of these tests."""
    converted = read_checkpoint(path, **{"frames": 4, "size": 32, **forced})
    vit = Vit(converted.config)
    vit.load_state_dict(converted.tensors)
    return vit.eval()


@pytest.fixture
def state() -> dict:
    return official()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [("model", "encoder."), ("module", ""), ("model", "backbone."), (None, ""), ("state_dict", "model.")],
)
def test_every_wrapper_and_prefix_gives_the_same_backbone(state, wrapper, prefix, zipped, tmp_path):
    named = pretrained(state) if prefix == "encoder." else {prefix + name: t for name, t in state.items()}
    tree = {wrapper: named, **beside()} if wrapper else named
    torch.save(tree, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    vit = load_backbone(tmp_path / "c.pth") if wrapper else loaded(tmp_path / "c.pth")
    assert (vit.config.heads, vit.config.frames, vit.config.size) == (2, 4, 32)
    with torch.no_grad():
        assert (vit(CLIP) - tokens_of(state, CLIP)).abs().max() < 1e-4
    assert tokens_of(state, CLIP).abs().max() > 1


def test_the_report_says_what_was_used_and_why_the_rest_was_not(state, tmp_path):
    torch.save({"model": pretrained(state), **beside()}, tmp_path / "c.pth")
    report = read_checkpoint(tmp_path / "c.pth")
    assert report.layout == "videomae"
    assert report.used["blocks.2.fc1.weight"] == "encoder.blocks.2.mlp.fc1.weight"
    assert "decoder" in report.ignored["decoder.blocks.0.attn.qkv.weight"]
    assert "mean over the tokens" in report.ignored["encoder.norm.weight"]
    assert "beside the weights" in report.ignored["optimizer"]
    assert set(report.used.values()) | set(report.ignored) == set(pretrained(state)) | set(beside())
    assert not report.warnings


def test_what_is_unknown_is_left_out_with_one_warning_a_process(state, tmp_path, capsys):
    torch.save({"model": state | {"audio_head.weight": torch.ones(3)}, **beside()}, tmp_path / "c.pth")
    load_backbone(tmp_path / "c.pth")
    load_backbone(tmp_path / "c.pth")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'c.pth'}: 1 tensors are unknown")
    assert line.endswith("audio_head.weight")


def test_missing_tensors_are_named(state, tmp_path):
    del state["blocks.1.attn.v_bias"]
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=r"lacks 1 tensors(.|\n)*blocks\.1\.attn\.v_bias"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_block_of_another_size_is_refused(state, tmp_path):
    state["blocks.2.mlp.fc1.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=r"blocks\.2\.fc1\.bias \[7\] instead of \[512\]"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_deepspeed_folder_is_a_checkpoint(state, tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.save({"module": half, "buffer_names": [], "ds_version": "0.9"}, folder / "mp_rank_00_model_states.pt")
    (tmp_path / "final_args.json").write_text(json.dumps(SHORT))
    vit = load_backbone(folder)
    assert vit.config.frames == 4
    with torch.no_grad():
        assert (vit(CLIP) - tokens_of(half, CLIP)).abs().max() < 1e-4  # float16 weights exactly as stored
    torch.save({}, folder / "mp_rank_01_model_states.pt")
    with pytest.raises(BackboneError, match="split over several files"):
        load_backbone(folder)


def test_a_folder_without_weights_names_what_it_found(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BackboneError, match=r"found: notes\.txt"):
        load_backbone(tmp_path)


def test_adaptformer_keeps_queries_keys_and_values_apart(state, tmp_path):
    torch.save({"model": adaptformer(state)}, tmp_path / "a.pth")
    torch.save({"model": state}, tmp_path / "o.pth")
    assert read_checkpoint(tmp_path / "a.pth").layout == "adaptformer"
    assert backbone_hash(loaded(tmp_path / "a.pth")) == backbone_hash(loaded(tmp_path / "o.pth"))
    tuned = adaptformer(official(5)) | {"blocks.0.adaptmlp.down_proj.weight": torch.ones(2, 128)}
    torch.save(tuned, tmp_path / "t.pth")
    report = read_checkpoint(tmp_path / "t.pth")
    assert report.head is None
    assert "tuned" in report.ignored["blocks.0.adaptmlp.down_proj.weight"]


@pytest.mark.parametrize(
    ("width", "config", "heads"),
    [
        (384, {"num_attention_heads": 16}, 6),  # Hugging Face's converter writes 16 for every size
        (768, {"num_attention_heads": 12}, 12),
        (1024, {}, 16),
        (1280, {}, 16),  # ViT-H: 80 channels a head
        (1408, {}, 16),  # ViT-g: 88
        (320, {"num_attention_heads": 10}, 10),  # nobody's size: the configuration decides
        (320, {}, 5),
    ],
)
def test_heads_follow_the_published_sizes(width, config, heads):
    warnings = []
    assert choose_heads(width, Hints(config=config), warnings) == heads
    assert bool(warnings) == (config.get("num_attention_heads", heads) != heads)
    assert all("python -m train.convert CHECKPOINT --heads 16" in text for text in warnings)


def test_heads_can_be_forced_and_must_divide(state, tmp_path):
    torch.save(state, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth", heads=4).config.heads == 4
    with pytest.raises(BackboneError, match="cannot be shared by 7 heads"):
        read_checkpoint(tmp_path / "c.pth", heads=7)


def test_prompts_decide_the_heads(tmp_path):
    torch.save(apt(), tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth").config.heads == 2
    with pytest.raises(BackboneError, match="4 heads do not fit the prompts"):
        read_checkpoint(tmp_path / "c.pth", heads=4)


@pytest.mark.parametrize(("kind", "start"), [("file", 0), ("json", 1), ("nothing", None)])
def test_where_prompts_begin_stands_beside_the_checkpoint(kind, start, tmp_path):
    more = {"prompt_start": 0} if kind == "file" else {}
    torch.save({"model": apt(rows=2), **beside(**more)}, tmp_path / "c.pth")
    if kind == "json":
        (tmp_path / "final_args.json").write_text(json.dumps({"prompt_start": 1}))
    report = read_checkpoint(tmp_path / "c.pth")
    assert report.apt.start == (start or 0)
    assert any("at which block" in note for note in report.notes) == (start is None)


def test_prompts_beyond_the_last_block_are_refused(tmp_path):
    torch.save(apt(), tmp_path / "c.pth")
    (tmp_path / "final_args.json").write_text(json.dumps({"prompt_start": 1}))
    with pytest.raises(BackboneError, match="3 blocks from block 1 on do not fit 3 blocks"):
        read_checkpoint(tmp_path / "c.pth")


def test_the_authors_epsilon_is_1e_6_everywhere(state, tmp_path):
    torch.save(state, tmp_path / "c.pth")
    config = read_checkpoint(tmp_path / "c.pth").config
    assert (config.eps, config.head_eps, config.pool_eps) == (1e-6, None, 1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_a_stored_position_table_must_be_the_fixed_one(state, half, tmp_path):
    table = sincos_positions(1568, 128)
    state["pos_embed"] = table.half() if half else table
    torch.save(state, tmp_path / "c.pth")
    assert "computed" in read_checkpoint(tmp_path / "c.pth").ignored["pos_embed"]
    state["pos_embed"] = table + 0.1 * torch.randn_like(table)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match="not the fixed sin-cos table"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("name", ["blocks.1.attn.k_bias", "blocks.1.attn.qkv.bias"])
def test_a_key_bias_that_is_not_zero_is_refused(state, name, tmp_path):
    joint = name.endswith("qkv.bias")
    parts = [state["blocks.1.attn.q_bias"], torch.zeros(128), state["blocks.1.attn.v_bias"]]
    changed = {k: v for k, v in state.items() if not (joint and k in ("blocks.1.attn.q_bias", "blocks.1.attn.v_bias"))}
    torch.save(state, tmp_path / "plain.pth")
    torch.save(changed | {name: torch.cat(parts) if joint else parts[1]}, tmp_path / "zero.pth")
    assert backbone_hash(loaded(tmp_path / "zero.pth")) == backbone_hash(loaded(tmp_path / "plain.pth"))
    parts[1] = torch.full((128,), 0.1)
    torch.save(changed | {name: torch.cat(parts) if joint else parts[1]}, tmp_path / "biased.pth")
    with pytest.raises(BackboneError, match="is not zero"):
        read_checkpoint(tmp_path / "biased.pth")


def test_videomae_v2_is_read_where_the_layout_is_the_same(tmp_path):
    giant = official(width=176, depth=2, hidden=768)  # ViT-g's MLP: 48/11 of the width
    torch.save({"module": {f"model.{name}": tensor for name, tensor in giant.items()}}, tmp_path / "g.pth")
    vit = loaded(tmp_path / "g.pth", heads=2)
    assert vit.config.hidden == 768
    with torch.no_grad():
        assert (vit(CLIP) - tokens_of(giant, CLIP)).abs().max() < 1e-4
    save_backbone(tmp_path / "g.safetensors", vit)
    assert backbone_hash(load_backbone(tmp_path / "g.safetensors")) == backbone_hash(vit)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("blocks.0.attn.logit_scale", "cosine attention"),
        ("blocks.0.gamma_1", "layer scale"),
        ("cls_token", "class token"),
        ("blocks.0.temporal.weight", "a part of a block"),
    ],
)
def test_what_computes_something_else_is_refused(state, name, what, tmp_path):
    torch.save(state | {name: torch.ones(2)}, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=what):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(("frames", "size", "named"), [(3, 32, "frames = 3"), (4, 40, "size = 40")])
def test_frames_and_pixels_must_divide_into_patches(state, frames, size, named, tmp_path):
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=named):
        read_checkpoint(tmp_path / "c.pth", frames=frames, size=size)


def test_quantised_weights_are_refused(state, tmp_path):
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].to(torch.int8)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match="quantised"):
        read_checkpoint(tmp_path / "c.pth")


def test_canonical_files_keep_16_bits_and_nothing_about_them_can_be_forced(tiny_vit, tmp_path):
    for kind in (torch.float16, torch.bfloat16):
        tensors = {name: tensor.to(kind) for name, tensor in tiny_vit.state_dict().items()}
        write_backbone(tmp_path / "c.safetensors", tiny_vit.config, tensors)
        found = read_checkpoint(tmp_path / "c.safetensors")
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
        assert {tensor.dtype for tensor in found.tensors.values()} == {kind}
    with pytest.raises(BackboneError, match="canonical backbone"):
        read_checkpoint(tmp_path / "c.safetensors", heads=2)


def test_weights_too_large_for_float16_are_refused(tiny_vit, tmp_path):
    tiny_vit.patch.weight.data[0] = 1e6
    with pytest.raises(BackboneError, match="too large for float16"):
        save_backbone(tmp_path / "c.safetensors", tiny_vit, half=True)
    assert not list(tmp_path.iterdir())


def test_loading_draws_no_random_numbers(tiny_vit, tmp_path):
    save_backbone(tmp_path / "c.safetensors", tiny_vit)
    before = torch.random.get_rng_state()
    load_backbone(tmp_path / "c.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)
