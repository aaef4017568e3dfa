"""Linear probing: the backbone stays untouched, only the pooled norm and the classifier are trained."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import ExtraKV, Head, Vit, VitConfig
from apt_edge.methods.base import Method


class Linear(Method):
    """No prompts at all; the baseline that every other method has to beat.

    Args:
        config: sizes of the backbone.
        head: `ln_linear`, the head of every other method (the probe of wgcban/apt, `--transfer_type linear`), or
            `bn_linear` with a batch norm before the classifier, see `BatchNormHead`.
    """

    deployment = "the backbone as it is; a batch norm in the head is folded into the classifier"

    def __init__(self, config: VitConfig, head: Literal["ln_linear", "bn_linear"] = "ln_linear") -> None:
        super().__init__(config, range(0))
        self.head = head

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """Nothing."""
        return {}

    def make_head(self, classes: int) -> Head:
        """The head that was asked for."""
        if self.head == "bn_linear":
            return BatchNormHead(self.config.width, classes, eps=self.config.eps)
        return super().make_head(classes)

    def parameter_count(self) -> int:
        """None: the head is counted by itself."""
        return 0

    def added_macs(self, deployed: bool) -> int:
        """None."""
        return 0


class BatchNormHead(Head):
    """Mean over the video tokens, LayerNorm, batch norm without weights, classifier: W (n - m) / sqrt(v + e) + b.

    The probe of masked autoencoders, as ShoufaChen/AdaptFormer has it for video (main_video.py:334-348): e = 1e-6,
    the classifier starts from a normal distribution of 0.01, the pooled LayerNorm is trained.
    """

    BATCH_NORM_EPS = 1e-6
    MOMENTUM = 0.1

    def __init__(self, width: int, classes: int, eps: float = 1e-6) -> None:
        super().__init__(width, classes, eps)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Returns logits `[B, classes]`; while training by the batch's own mean and variance, which are kept track of.

        Each part of an accumulated batch, and each process, goes by its own.

        A single clip has no variance: it takes the ones kept so far.
        """
        dtype = torch.promote_types(x_BNC.dtype, torch.float32)
        pooled_BC = self.norm(x_BNC.to(dtype).mean(dim=1))
        by_batch = self.training and len(pooled_BC) > 1
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        even_BC = F.batch_norm(
            pooled_BC, mean, variance, training=by_batch, momentum=self.MOMENTUM, eps=self.BATCH_NORM_EPS
        )
        return self.linear(even_BC)

    def folded(self) -> Head:
        """W' = W / sqrt(v + e), b' = b - W' m: the same logits from norm and classifier alone."""
        weight_KC = self.linear.weight.detach()
        weight_KC = weight_KC / torch.sqrt(self.get_buffer("variance") + self.BATCH_NORM_EPS)
        bias_K = self.linear.bias.detach() - weight_KC @ self.get_buffer("mean")
        head = Head(weight_KC.shape[1], len(weight_KC), eps=self.norm.eps)
        head.load_state_dict(
            {
                "norm.weight": self.norm.weight.detach(),
                "norm.bias": self.norm.bias.detach(),
                "linear.weight": weight_KC,
                "linear.bias": bias_K,
            },
            assign=True,
        )
        return head.requires_grad_(False)
