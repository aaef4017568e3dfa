"""The backbone against Hugging Face's VideoMAE, and the promises of the socket."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from apt_edge.backbone.layers import sincos_positions
from apt_edge.backbone.vit import SIZES, ExtraKV, Head, Vit, VitConfig

ROOT = Path(__file__).parents[2]


def copy_from_hugging_face(source, vit: Vit, head: Head) -> None:
    """Map the tensors of `VideoMAEForVideoClassification` onto our names."""
    state = source.state_dict()
    own = {
        "patch.weight": state["videomae.embeddings.patch_embeddings.projection.weight"],
        "patch.bias": state["videomae.embeddings.patch_embeddings.projection.bias"],
    }
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "attn.proj": "attention.output.dense",
    }
    for i in range(vit.config.depth):
        base = f"videomae.encoder.layer.{i}"
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                own[f"blocks.{i}.{ours}.{kind}"] = state[f"{base}.{theirs}.{kind}"]
        attention = f"{base}.attention.attention"
        own[f"blocks.{i}.attn.qkv.weight"] = torch.cat(
            [state[f"{attention}.{part}.weight"] for part in ("query", "key", "value")]
        )
        own[f"blocks.{i}.attn.q_bias"] = state[f"{attention}.query.bias"]
        own[f"blocks.{i}.attn.v_bias"] = state[f"{attention}.value.bias"]
    vit.load_state_dict(own)
    head.load_state_dict(
        {
            "norm.weight": state["fc_norm.weight"],
            "norm.bias": state["fc_norm.bias"],
            "linear.weight": state["classifier.weight"],
            "linear.bias": state["classifier.bias"],
        }
    )


@pytest.mark.parametrize(("width", "heads", "frames", "size"), [(192, 3, 4, 64), (384, 6, 4, 64), (768, 12, 2, 32)])
def test_logits_equal_hugging_face(width, heads, frames, size):
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=size,
        num_frames=frames,
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        layer_norm_eps=1e-6,  # theirs is 1e-12 by default, VideoMAE's own code has 1e-6
        use_mean_pooling=True,
        num_labels=7,
    )
    source = VideoMAEForVideoClassification(config).eval()
    for parameter in source.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    vit = Vit(VitConfig(width, 3, heads, frames=frames, size=size)).eval()
    head = Head(width, 7, eps=1e-5)  # their fc_norm keeps PyTorch's default
    copy_from_hugging_face(source, vit, head)
    clip = torch.randn(2, frames, 3, size, size)
    with torch.no_grad():
        expected = source(clip).logits
        found = head(vit(clip.transpose(1, 2)))
    assert expected.abs().max() > 0.5
    assert (found - expected).abs().max() <= 1e-4


def test_positions_equal_hugging_face():
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    assert (sincos_positions(1568, 384) - get_sinusoid_encoding_table(1568, 384)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "tokens", "head_width", "parameters"),
    [
        # From the papers: 21.947 M and 86.36 M with a 174-class head of 67,758 and 135,342 parameters.
        ("vit-small", 1568, 64, 21_946_926 - 67_758),
        ("vit-base", 1568, 64, 86_361_006 - 135_342),
        ("vit-huge", 1568, 80, None),
        ("nano", 144, 64, 2_741_952),
    ],
)
def test_sizes(name, tokens, head_width, parameters):
    config = SIZES[name]
    assert (config.tokens, config.head_width) == (tokens, head_width)
    if parameters:
        with torch.device("meta"):
            assert sum(p.numel() for p in Vit(config).parameters()) == parameters


def test_an_empty_socket_changes_nothing(tiny_vit, tiny_clips):
    clip = torch.from_numpy(tiny_clips)
    nothing = ExtraKV(torch.zeros(1, 1, 0, 32), torch.zeros(1, 1, 0, 32))
    assert torch.equal(tiny_vit(clip), tiny_vit(clip, {0: nothing, 1: nothing}))


def test_the_socket_is_plain_attention_over_more_keys(tiny_vit, tiny_clips):
    tokens = tiny_vit.embed(torch.from_numpy(tiny_clips))
    attention = tiny_vit.block(0).attn
    key, value = torch.randn(1, 2, 5, 32), torch.randn(1, 2, 5, 32)
    found = attention(tokens, ExtraKV(key, value))
    query, own_key, own_value = attention.project(tokens)
    keys = torch.cat([own_key, key.expand(4, -1, -1, -1)], 2)
    values = torch.cat([own_value, value.expand(4, -1, -1, -1)], 2)
    weights = (query @ keys.transpose(2, 3) / 32**0.5).softmax(-1)
    expected = attention.proj((weights @ values).transpose(1, 2).flatten(2))
    assert (found - expected).abs().max() < 1e-5


def test_running_blocks_in_parts_is_running_them(tiny_vit, tiny_clips):
    clip = torch.from_numpy(tiny_clips)
    half = tiny_vit.run_blocks(tiny_vit.embed(clip), stop=1)
    assert torch.equal(tiny_vit.run_blocks(half, start=1), tiny_vit(clip))


def test_half_precision_keeps_norm_and_logits_in_float32(tiny_vit, tiny_clips):
    tiny_vit.half()
    tokens = tiny_vit(torch.from_numpy(tiny_clips).half())
    assert tokens.dtype == torch.float16
    assert Head(64, 3)(tokens).dtype == torch.float32
    huge = torch.full((1, 4, 64), 300.0, dtype=torch.float16)
    huge[..., 0] = -300
    assert tiny_vit.block(0).norm1(huge).isfinite().all()


def test_under_autocast_prompts_stand_beside_the_keys_in_half(tiny_vit, tiny_clips):
    tokens = tiny_vit.embed(torch.from_numpy(tiny_clips))
    prompts = torch.randn(2, 1, 1, 5, 32).requires_grad_()

    class Joined(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__ == "cat" and result.dim() == 4:
                joined.append(result.dtype)
            return result

    joined: list[torch.dtype] = []
    with torch.autocast("cpu", torch.bfloat16), Joined():
        tiny_vit.block(0).attn(tokens, ExtraKV(*prompts)).sum().backward()
    assert joined == [torch.bfloat16, torch.bfloat16]
    assert prompts.grad is not None
    assert prompts.grad.abs().min() > 0


def test_there_is_one_attention_in_the_project():
    calls = []
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] not in ("apt_edge", "train", "export", "bench"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in ("scaled_dot_product_attention", "softmax"):
                calls.append(path.relative_to(ROOT).as_posix())
    assert calls == ["apt_edge/backbone/vit.py", "train/scoring.py"]  # the latter averages classes over views
