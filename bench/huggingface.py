"""What many would pick instead: transformers' VideoMAE, with exactly the weights of our backbone and head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apt_edge.backbone.layouts.huggingface import NAMES
from apt_edge.backbone.vit import Head, Vit
from apt_edge.errors import ConfigError, MissingDependency


class HuggingFaceModel(nn.Module):
    """`VideoMAEForVideoClassification` as `clip [B, 3, T, S, S] -> logits [B, classes]`; its own code runs unchanged.

    Args:
        vit: the backbone; its weights are shared, not copied.
        head: norm and classifier.

    Raises:
        ConfigError: a backbone of another family.
        MissingDependency: transformers is not installed.
    """

    def __init__(self, vit: Vit, head: Head) -> None:
        super().__init__()
        self.model = _empty(vit, head)
        weights = {name: weight.detach() for name, weight in _weights(vit, head).items()}  # their own to freeze
        self.model.load_state_dict(weights, assign=True)
        embeddings = self.model.videomae.embeddings
        table = embeddings.position_embeddings
        del embeddings.position_embeddings  # a plain attribute stays behind when the module moves to a GPU
        embeddings.register_buffer("position_embeddings", table, persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, clip_BCTSS: Tensor) -> Tensor:
        """Returns logits; transformers wants time before colour."""
        return self.model(clip_BCTSS.transpose(1, 2)).logits


def _empty(vit: Vit, head: Head) -> Any:
    if vit.config.family != "videomae":
        raise ConfigError(f"transformers' VideoMAE cannot hold a backbone of the family {vit.config.family}")
    try:
        from transformers import VideoMAEConfig, VideoMAEForVideoClassification
    except ImportError:
        raise MissingDependency(
            "transformers is not installed, which has Hugging Face's VideoMAE", fix="pip install 'apt-edge[bench]'"
        ) from None
    config = vit.config
    settings: dict[str, Any] = {
        "image_size": config.size,
        "patch_size": config.patch,
        "num_frames": config.frames,
        "tubelet_size": config.tubelet,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "layer_norm_eps": config.eps,
        "use_mean_pooling": True,
        "num_labels": head.linear.out_features,
    }
    with torch.random.fork_rng():
        model: Any = VideoMAEForVideoClassification(VideoMAEConfig(**settings))
    model.fc_norm.eps = head.norm.eps  # the configuration does not reach this one
    return model


def _weights(vit: Vit, head: Head) -> dict[str, Tensor]:
    """Our tensors under transformers' names."""
    projection = f"videomae.{NAMES.patch}"
    assert vit.patch.bias is not None
    weights: dict[str, Tensor] = {f"{projection}.weight": vit.patch.weight, f"{projection}.bias": vit.patch.bias}
    for index in range(vit.config.depth):
        block, base = vit.block(index), f"videomae.{NAMES.blocks}{index}."
        for ours, theirs in NAMES.parts.items():
            for kind in ("weight", "bias"):
                weights[f"{base}{theirs}.{kind}"] = block.get_parameter(f"{ours}.{kind}")
        biases = (block.attn.q_bias, None, block.attn.v_bias)
        for part, weight, bias in zip(NAMES.split, block.attn.qkv.weight.chunk(3), biases, strict=True):
            weights[f"{base}{part}.weight"] = weight.contiguous()
            if bias is not None:
                weights[f"{base}{part}.bias"] = bias
    return weights | {
        "fc_norm.weight": head.norm.weight,
        "fc_norm.bias": head.norm.bias,
        "classifier.weight": head.linear.weight,
        "classifier.bias": head.linear.bias,
    }
