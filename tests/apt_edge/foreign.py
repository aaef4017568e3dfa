"""Checkpoints as others write them, with random weights, and their mathematics in one straight line."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = {"width": 128, "depth": 3, "hidden": 512}  # two heads of 64
SHORT = {"num_frames": 4, "input_size": 32}


def official(classes: int = 0, *, seed: int = 0, norm: str = "fc_norm", width=128, depth=3, hidden=512) -> dict:
    """A fine-tuned model as VideoMAE's authors save it; without classes its backbone alone."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int, about: float = 0.0, scale: float = 0.05) -> Tensor:
        return about + scale * torch.randn(shape, generator=generator)

    state = {"patch_embed.proj.weight": numbers(width, 3, 2, 16, 16), "patch_embed.proj.bias": numbers(width)}
    for index in range(depth):
        base = f"blocks.{index}."
        for name in ("norm1", "norm2"):
            state |= {f"{base}{name}.weight": numbers(width, about=1.0), f"{base}{name}.bias": numbers(width)}
        state |= {
            f"{base}attn.q_bias": numbers(width, scale=0.3),
            f"{base}attn.v_bias": numbers(width, scale=0.3),
            f"{base}attn.qkv.weight": numbers(3 * width, width, scale=0.1),
            f"{base}attn.proj.weight": numbers(width, width),
            f"{base}attn.proj.bias": numbers(width),
            f"{base}mlp.fc1.weight": numbers(hidden, width),
            f"{base}mlp.fc1.bias": numbers(hidden),
            f"{base}mlp.fc2.weight": numbers(width, hidden),
            f"{base}mlp.fc2.bias": numbers(width),
        }
    if classes:
        state |= {f"{norm}.weight": numbers(width, about=1.0), f"{norm}.bias": numbers(width)}
        state |= {"head.weight": numbers(classes, width, scale=0.3), "head.bias": numbers(classes)}
    return state


def apt(classes: int = 5, *, tokens: int = 3, rows: int = 3, scaled: bool = True, seed: int = 0) -> dict:
    """A model that APT tuned: prompts of `rows` blocks, some scales below 1."""
    state = official(classes, seed=seed, norm="head_norm")
    generator = torch.Generator().manual_seed(seed + 1)
    state["prompt_embeddings_k"] = torch.randn((rows, tokens, 64), generator=generator)
    state["prompt_embeddings_v"] = torch.randn((rows, tokens, 64), generator=generator)
    if scaled:
        state["prompt_scale"] = 0.5 + torch.rand((rows, 2, tokens), generator=generator)
    return state


def pretrained(state: dict) -> dict:
    """The same backbone as pre-training leaves it: behind `encoder.`, beside its decoder."""
    width = len(state["patch_embed.proj.bias"])
    decoder = {name: torch.randn(shape) for name, shape in {
        "encoder.norm.weight": (width,), "encoder.norm.bias": (width,), "mask_token": (1, 1, 32),
        "encoder_to_decoder.weight": (32, width), "decoder.blocks.0.attn.qkv.weight": (96, 32),
        "decoder.blocks.0.attn.q_bias": (32,), "decoder.norm.weight": (32,), "decoder.head.weight": (1536, 32),
    }.items()}  # fmt: skip
    return {f"encoder.{name}": tensor for name, tensor in state.items()} | decoder


def adaptformer(state: dict) -> dict:
    """The same model with queries, keys and values apart, as ShoufaChen/AdaptFormer saves it."""
    renamed = {}
    for name, tensor in state.items():
        if name.endswith("attn.qkv.weight"):
            parts = tensor.chunk(3)
            renamed |= {name.replace("qkv", f"{part}_proj"): parts[i] for i, part in enumerate("qkv")}
        else:
            renamed[name.replace("mlp.fc", "fc")] = tensor
    return renamed


def beside(**more: object) -> dict:
    """What training scripts keep beside the weights."""
    return {
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 3,
        "scaler": {"scale": 128.0},
        "args": Namespace(output_dir=Path("runs"), **SHORT, **more),
    }


def tokens_of(state: dict, clip: Tensor, *, heads: int = 2, eps: float = 1e-6, start: int = 0) -> Tensor:
    """Video tokens behind the last block, float64, from the official names; prompts from block `start` on."""
    state = {name: tensor.double() for name, tensor in state.items()}
    x = F.conv3d(clip.double(), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(2, 16, 16))
    x = x.flatten(2).transpose(1, 2)
    batch, count, width = x.shape
    place = torch.arange(count).double()[:, None]
    for channel in range(width):
        angle = place[:, 0] / 10000 ** (2 * (channel // 2) / width)
        x[:, :, channel] += angle.cos() if channel % 2 else angle.sin()
    for index in range(sum(name.endswith("attn.qkv.weight") for name in state)):
        own = {n.removeprefix(f"blocks.{index}."): t for n, t in state.items() if n.startswith(f"blocks.{index}.")}
        y = F.layer_norm(x, (width,), own["norm1.weight"], own["norm1.bias"], eps)
        bias = torch.cat([own["attn.q_bias"], torch.zeros(width).double(), own["attn.v_bias"]])
        q, k, v = (y @ own["attn.qkv.weight"].T + bias).reshape(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        row = index - start
        if "prompt_embeddings_k" in state and 0 <= row < len(state["prompt_embeddings_k"]):
            pk, pv = state["prompt_embeddings_k"][row], state["prompt_embeddings_v"][row]
            if "prompt_scale" in state:
                pk = pk * torch.maximum(state["prompt_scale"][row, 0], torch.ones(1).double())[:, None]
                pv = pv * torch.maximum(state["prompt_scale"][row, 1], torch.ones(1).double())[:, None]
            k = torch.cat([k, pk.expand(batch, heads, -1, -1)], 2)
            v = torch.cat([v, pv.expand(batch, heads, -1, -1)], 2)
        mixed = ((q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + mixed.transpose(1, 2).reshape(batch, count, width) @ own["attn.proj.weight"].T + own["attn.proj.bias"]
        y = F.layer_norm(x, (width,), own["norm2.weight"], own["norm2.bias"], eps)
        y = F.gelu(y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"])
        x = x + y @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    return x


def logits_of(state: dict, clip: Tensor, *, norm: str = "fc_norm", head_eps: float = 1e-6, **settings) -> Tensor:
    """Mean, norm, classifier of `tokens_of`."""
    pooled = tokens_of(state, clip, **settings).mean(1)
    state = {name: tensor.double() for name, tensor in state.items()}
    pooled = F.layer_norm(pooled, pooled.shape[1:], state[f"{norm}.weight"], state[f"{norm}.bias"], head_eps)
    return pooled @ state["head.weight"].T + state["head.bias"]
