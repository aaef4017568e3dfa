"""A backbone, a tuning method and a head: the model while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import backbone_hash
from apt_edge.backbone.vit import Vit
from apt_edge.clip import ClipSpec
from apt_edge.methods.base import Method
from apt_edge.pack import BackboneRef, FoldedKV, PromptPack


class TunedModel(nn.Module):
    """The whole classifier; the method's parameters and the head have gradients, the backbone only in full tuning.

    Args:
        vit: the backbone; it is frozen here unless the method tunes it.
        method: made for the same sizes.
        classes: width of the head.
    """

    def __init__(self, vit: Vit, method: Method, classes: int) -> None:
        super().__init__()
        self.backbone_sha256 = backbone_hash(vit)  # of the weights as they came
        self.vit = vit.requires_grad_(method.tunes_backbone)
        self.method = method
        self.head = method.make_head(classes)

    def forward(self, inputs: Tensor, from_prefix: bool = False) -> Tensor:
        """Logits `[B, classes]` of clips `[B, 3, T, H, W]`, or of what `prefix` gave for them."""
        if not from_prefix:
            inputs = self.prefix(inputs)
        if self.method.tunes_backbone:
            inputs = self.vit.embed(inputs)
        return self.head(self.method.run(self.vit, inputs))

    def prefix(self, clip_BCTHW: Tensor) -> Tensor:
        """What stays constant while training: tokens `[B, N, C]` after the blocks below the method's first one.

        Without any changed block the mean over the tokens, `[B, 1, C]`: all that the head reads. When the backbone
        itself is tuned, the clip. No gradient graph is built.
        """
        if self.method.tunes_backbone:
            return clip_BCTHW
        with torch.no_grad():
            tokens_BNC = self.vit.run_blocks(self.vit.embed(clip_BCTHW), stop=self.method.first_block)
            return tokens_BNC if self.method.blocks else tokens_BNC.mean(dim=1, keepdim=True)

    def prefix_shape(self) -> tuple[int, ...]:
        """Shape of one clip's prefix."""
        config = self.vit.config
        if self.method.tunes_backbone:
            return (3, config.frames, config.size, config.size)
        return (config.tokens if self.method.blocks else 1, config.width)

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> TunedModel:
        """Train mode for the method and the head; the backbone has no dropout of its own and stays in eval mode."""
        super().train(mode)
        self.vit.eval()
        return self


def make_pack(
    model: TunedModel,
    *,
    method: str,
    settings: Mapping[str, Any],
    clip: ClipSpec,
    labels: Sequence[str],
    backbone: str,
    training: Mapping[str, Any],
) -> PromptPack:
    """Fold a trained model into a pack; `backbone` is the name of the weights that training began with."""
    deployed = model.method.deploy(model.vit)
    head = model.head.folded()
    return PromptPack(
        kv={block: FoldedKV(_array(kv.key[0]), _array(kv.value[0])) for block, kv in deployed.kv.items()},
        form=deployed.form,
        changes={name: _array(tensor) for name, tensor in deployed.changes.items()},
        head={
            "norm.weight": _array(head.norm.weight),
            "norm.bias": _array(head.norm.bias),
            "weight": _array(head.linear.weight),
            "bias": _array(head.linear.bias),
        },
        method=method,
        settings=settings,
        clip=clip,
        labels=tuple(labels),
        backbone=BackboneRef(backbone, model.backbone_sha256),
        trainable_parameters=model.trainable_parameters(),
        training=training,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()
