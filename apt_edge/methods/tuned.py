"""A frozen backbone, a tuning method and a head: the model while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import backbone_hash
from apt_edge.backbone.vit import Head, Vit
from apt_edge.clip import ClipSpec
from apt_edge.methods.base import Method
from apt_edge.pack import BackboneRef, FoldedKV, PromptPack


class TunedModel(nn.Module):
    """The whole classifier; only the method's parameters and the head have gradients.

    Args:
        vit: the backbone; it is frozen here.
        method: made for the same sizes.
        classes: width of the head.
    """

    def __init__(self, vit: Vit, method: Method, classes: int) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(False)
        self.method = method
        self.head = Head(vit.config.width, classes, eps=vit.config.eps)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Logits `[B, classes]` of clips."""
        return self.forward_prefix(self.prefix(clip_BCTHW))

    def prefix(self, clip_BCTHW: Tensor) -> Tensor:
        """Tokens `[B, N, C]` after the blocks below the first prompted one: constant while training.

        Without any prompted block only the mean over the tokens is kept, `[B, 1, C]`: all that the head reads.
        """
        tokens_BNC = self.vit.run_blocks(self.vit.embed(clip_BCTHW), stop=self.method.first_block)
        return tokens_BNC if self.method.blocks else tokens_BNC.mean(dim=1, keepdim=True)

    def forward_prefix(self, tokens_BNC: Tensor) -> Tensor:
        """Logits from the tokens that `prefix` gives."""
        extra = self.method.extra(self.vit)
        return self.head(self.vit.run_blocks(tokens_BNC, extra, start=self.method.first_block))

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> TunedModel:
        """Train mode for the method and the head; the frozen backbone stays in eval mode."""
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
    """Fold a trained model into a pack; `backbone` is its name, the hash is taken from the weights."""
    constants = model.method.fold(model.vit)
    return PromptPack(
        kv={block: FoldedKV(_array(kv.key[0]), _array(kv.value[0])) for block, kv in constants.items()},
        head={
            "norm.weight": _array(model.head.norm.weight),
            "norm.bias": _array(model.head.norm.bias),
            "weight": _array(model.head.linear.weight),
            "bias": _array(model.head.linear.bias),
        },
        method=method,
        settings=settings,
        clip=clip,
        labels=tuple(labels),
        backbone=BackboneRef(backbone, backbone_hash(model.vit)),
        trainable_parameters=model.trainable_parameters(),
        training=training,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()
