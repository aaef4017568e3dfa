"""CLIP's image encoder with random weights, made by transformers, under OpenAI's names, and backbones made of it."""

from __future__ import annotations

import torch
from torch import Tensor

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.layouts import clip
from apt_edge.backbone.layouts.base import Converted, Hints
from apt_edge.backbone.vit import Vit

WIDTH, DEPTH, HEADS, SIZE = 64, 3, 2, 32
FORMS = {"joint": 8, "per-frame": 4}  # frames: four time steps in both
OPENAI = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def image_encoder():
    """`CLIPVisionModel` with random weights large enough to make every one matter."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            image_size=SIZE,
            patch_size=16,
        )
    ).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def openai_names(model, prefix: str = "") -> dict[str, Tensor]:
    """The weights of `CLIPVisionModel` as OpenAI's `visual` holds them."""
    state = model.state_dict()
    own = {
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "proj": torch.randn(WIDTH, 32),
    }
    for kind in ("weight", "bias"):
        own[f"ln_pre.{kind}"] = state[f"pre_layrnorm.{kind}"]
        own[f"ln_post.{kind}"] = state[f"post_layernorm.{kind}"]
        for i in range(DEPTH):
            theirs, ours = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
            parts = [state[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            own[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
            for name, openai in OPENAI.items():
                own[f"{ours}.{openai}.{kind}"] = state[f"{theirs}.{name}.{kind}"]
    return {prefix + name: tensor for name, tensor in own.items()}


def converted(form: str, tensors: dict[str, Tensor] | None = None) -> Converted:
    """What the layout makes of the random weights."""
    hints = Hints(heads=HEADS, frames=FORMS[form], clip_form=form)
    return clip.convert(openai_names(image_encoder()) if tensors is None else tensors, hints)


def tiny_clip(form: str) -> Vit:
    """The random weights as a frozen backbone: three blocks, four time steps, 16 or 20 tokens."""
    found = converted(form)
    vit = Vit(found.config)
    vit.load_state_dict(found.tensors)
    return freeze(vit)


def clips(form: str) -> Tensor:
    """Three clips `[3, 3, T, 32, 32]`."""
    return torch.randn(3, 3, FORMS[form], SIZE, SIZE, generator=torch.Generator().manual_seed(0))
