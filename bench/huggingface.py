"""What many would pick instead: transformers' VideoMAE, with exactly the weights of our backbone and head."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn

from apt_edge.backbone.vit import Head, Vit
from apt_edge.errors import ConfigError, MissingDependency

NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "attention.output.dense": "attn.proj",
}


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
    width, depth, heads, frames, size, tubelet, patch, _, eps = astuple(vit.config)[:9]
    settings: dict[str, Any] = {
        "image_size": size,
        "patch_size": patch,
        "num_frames": frames,
        "tubelet_size": tubelet,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": vit.config.hidden,
        "layer_norm_eps": eps,
        "use_mean_pooling": True,
        "num_labels": head.linear.out_features,
    }
    with torch.random.fork_rng():
        model: Any = VideoMAEForVideoClassification(VideoMAEConfig(**settings))
    model.fc_norm.eps = head.norm.eps  # the configuration does not reach this one
    return model


def _weights(vit: Vit, head: Head) -> dict[str, Tensor]:
    """Our tensors under transformers' names."""
    projection = "videomae.embeddings.patch_embeddings.projection"
    assert vit.patch.bias is not None
    weights: dict[str, Tensor] = {f"{projection}.weight": vit.patch.weight, f"{projection}.bias": vit.patch.bias}
    for index in range(vit.config.depth):
        block, base = vit.block(index), f"videomae.encoder.layer.{index}"
        for theirs, ours in NAMES.items():
            for kind in ("weight", "bias"):
                weights[f"{base}.{theirs}.{kind}"] = block.get_parameter(f"{ours}.{kind}")
        attention = f"{base}.attention.attention"
        for part, weight in zip(("query", "key", "value"), block.attn.qkv.weight.chunk(3), strict=True):
            weights[f"{attention}.{part}.weight"] = weight.contiguous()
        weights[f"{attention}.query.bias"] = block.attn.q_bias
        weights[f"{attention}.value.bias"] = block.attn.v_bias
    return weights | {
        "fc_norm.weight": head.norm.weight,
        "fc_norm.bias": head.norm.bias,
        "classifier.weight": head.linear.weight,
        "classifier.bias": head.linear.bias,
    }
