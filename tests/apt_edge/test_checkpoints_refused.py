"""Checkpoints that make no sense: refused by name, or a warning where they contradict themselves, before all else."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import FORMAT, backbone_hash, load_backbone, read_checkpoint, save_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.errors import BackboneError, PackError
from tests.apt_edge.clip_weights import image_encoder, openai_names
from tests.apt_edge.foreign import apt, beside, official, tokens_of
from tests.apt_edge.test_checkpoints_huggingface import TINY, model_of
from tests.conftest import tiny_pack


def refused(tmp_path, tree: object, match: str, **forced) -> None:
    """Reading this is an error of ours."""
    torch.save(tree, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=match):
        read_checkpoint(tmp_path / "c.pth", **forced)


def test_a_pack_is_refused_on_the_same_weights_with_other_heads(tiny_vit, tmp_path):
    """Two heads in 64 channels are not the rule, which is one; neither are four."""
    pack = tiny_pack(tiny_vit, "linear")
    for heads in (1, 2, 4):
        vit = Vit(replace(tiny_vit.config, heads=heads))
        vit.load_state_dict(tiny_vit.state_dict())
        save_backbone(tmp_path / "c.safetensors", vit)
        again = load_backbone(tmp_path / "c.safetensors")
        if heads == 2:
            folded_model(pack, again)
        else:
            with pytest.raises(PackError, match="backbone"):
                folded_model(pack, again)


def test_the_embedded_backbone_keeps_its_hash():
    assert backbone_hash(load_backbone("nano")).startswith("83ebb130f23ee86c")


@pytest.mark.parametrize(
    "changes",
    [
        {"head.bias": torch.zeros(7)},
        {"head.weight": torch.zeros(5)},
        {"fc_norm.weight": torch.ones(7)},
        {"head.bias": torch.zeros(())},
    ],
)
def test_a_head_that_does_not_fit_is_refused(changes, tmp_path):
    refused(tmp_path, official(5) | changes, r"head of the checkpoint(.|\n)*fc_norm\.weight \[(.|\n)*head\.bias \[")


@pytest.mark.parametrize("start", [-1, "1", [1], 0.0, True])
def test_prompts_begin_at_a_whole_number(start, tmp_path):
    refused(tmp_path, {"model": apt(rows=1), "args": Namespace(prompt_start=start)}, "prompt_start = ")


@pytest.mark.parametrize(
    ("without", "changes"),
    [
        (("prompt_embeddings_k",), {}),
        (("prompt_embeddings_v",), {}),
        (("prompt_embeddings_k", "prompt_embeddings_v"), {}),
        ((), {"prompt_embeddings_k": torch.ones(3, 3)}),
        ((), {"prompt_embeddings_k": torch.ones(3, 3, 7), "prompt_embeddings_v": torch.ones(3, 3, 7)}),
        ((), {"prompt_scale": torch.ones(3, 3)}),
    ],
)
def test_prompts_must_belong_together(without, changes, tmp_path):
    state = {name: tensor for name, tensor in (apt() | changes).items() if name not in without}
    refused(tmp_path, state, "do not belong together")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_what_is_not_a_number_is_refused_when_it_is_loaded(value, kind, tmp_path):
    state = official()
    state["blocks.1.mlp.fc2.bias"][3] = value
    torch.save({name: tensor.to(kind) for name, tensor in state.items()}, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=r"blocks\.1\.fc2\.bias holds what is not a number(.|\n)*1 of 128"):
        load_backbone(tmp_path / "c.pth")


def test_blocks_are_numbered_without_holes(tmp_path):
    state = official() | {"blocks.999999999.norm1.weight": torch.ones(1)}
    refused(tmp_path, state, r"blocks\.999999999, but no blocks\.3")


@pytest.mark.parametrize("shape", [(10**9, 3, 2, 16, 16), (10**7, 3, 2, 16, 16)])
def test_tensors_that_are_not_stored_are_refused(shape, tmp_path):
    refused(tmp_path, official() | {"patch_embed.proj.weight": torch.zeros(1).expand(shape)}, "does not hold every")


@pytest.mark.parametrize("change", ["to_sparse", "meta"])
def test_tensors_without_plain_numbers_are_refused(change, tmp_path):
    state = official()
    bias = state["patch_embed.proj.bias"]
    state["patch_embed.proj.bias"] = bias.to_sparse() if change == "to_sparse" else bias.to("meta")
    refused(tmp_path, state, r"patch_embed\.proj\.bias|sparse")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id2label", ["push"]),
        ("layer_norm_eps", "1e-5"),
        ("layer_norm_eps", 0),
        ("num_frames", 0),
        ("num_attention_heads", "2"),
        ("image_size", [32, 48]),
        ("hidden_act", 3),
        ("tubelet_size", "2"),
    ],
)
def test_nonsense_in_the_configuration_is_named(key, value, tmp_path):
    model_of(**TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(BackboneError, match=f"{key} = "):
        read_checkpoint(tmp_path)


def test_contradictions_of_the_configuration_are_warnings(tmp_path):
    model_of(**TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not read_checkpoint(tmp_path).warnings
    said = {"model_type": "vivit", "num_hidden_layers": 9, "tubelet_size": 1, "num_channels": 4}
    more = {"image_size": [32, 32], "id2label": None}
    (tmp_path / "config.json").write_text(json.dumps(config | said | more))
    found = read_checkpoint(tmp_path)
    assert [(key, value) for key, value in said.items() for text in found.warnings if f"{key} = {value}," in text] == [
        *said.items()
    ]
    assert (found.config.size, found.labels) == (32, None)


@pytest.mark.parametrize(("key", "value"), [("num_frames", "16"), ("input_size", 224.0), ("num_frames", True)])
def test_nonsense_in_the_arguments_is_named(key, value, tmp_path):
    refused(tmp_path, {"model": official(), "args": Namespace(**{key: value})}, f"{key} = ")


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_a_backbone_without_qkv_biases_has_zeros_for_them(prefix, tmp_path):
    state = official()
    for name in state:
        if name.endswith(("q_bias", "v_bias")):
            state[name] = torch.zeros(128)
    bare = {prefix + name: tensor for name, tensor in state.items() if not name.endswith(("q_bias", "v_bias"))}
    torch.save({"model": bare, **beside()}, tmp_path / "c.pth")
    assert any("which is exact" in note for note in read_checkpoint(tmp_path / "c.pth").notes)
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert (load_backbone(tmp_path / "c.pth")(clip) - tokens_of(state, clip)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("forced", "match"),
    [
        ({"frames": 0}, "frames = 0"),
        ({"size": 0}, "size = 0"),
        ({"frames": 100_000}, "above 256"),
        ({"size": 2048}, "above 1024"),
        ({"clip_form": "joint"}, "is no CLIP"),
        ({"clip_form": "sideways"}, "is no CLIP"),
    ],
)
def test_what_cannot_be_forced_is_refused(forced, match, tmp_path):
    refused(tmp_path, official(), match, **forced)


@pytest.mark.parametrize(
    "changes", [{"frames": 100_000}, {"width": 10**9}, {"depth": 10**9}, {"heads": "2"}, {"eps": "small"}]
)
def test_a_canonical_header_that_the_tensors_contradict_is_refused(changes, tiny_vit, tmp_path):
    config = json.dumps({**vars(tiny_vit.config), **changes})
    save_file(tiny_vit.state_dict(), tmp_path / "c.safetensors", {"format": FORMAT, "config": config})
    with pytest.raises(BackboneError, match="no backbone configuration that is known"):
        load_backbone(tmp_path / "c.safetensors")


def test_clip_as_it_is_says_whose_definition_and_which_colours(tmp_path, capsys):
    tensors = openai_names(image_encoder())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "clip.safetensors")
    load_backbone(tmp_path / "clip.safetensors")
    said = capsys.readouterr().err
    assert "joint form of CLIP on video is apt-edge's own definition" in said
    assert "--clip-form joint or per-frame" in said
    assert "clip.mean = [0.48145466, " in said
