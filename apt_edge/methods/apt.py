"""Attention Prompt Tuning (arXiv 2403.06978): learnable keys and values, shared by the heads of a block."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import ExtraKV, Vit, VitConfig
from apt_edge.methods.base import Method, block_range, check_count
from apt_edge.methods.cost import attention_macs

SOFTPLUS_START = -3.0  # factor 1.049, slope 0.047


class Apt(Method):
    """APT: per block T keys and T values of one head's width, dropped out, scaled, concatenated.

    K' = [K ; f(s_k) * dropout(P_k)], V' = [V ; f(s_v) * dropout(P_v)], one scale s a prompt, for keys and values apart.
    Order and initialisation as in the published code (wgcban/apt modeling_VPT.py:92-103, 274-303): dropout before the
    scale, one mask for the batch and all heads, prompts after the video's own keys, no bias, no position.

    `max1` is the published factor f(s) = max(s, 1) from s = 1. It has no gradient below 1: a scale that falls there
    stays for good, so `undecayed` keeps weight decay away from it (the published code decays it).
    `softplus` is ours: f(s) = 1 + softplus(s) = 1 + ln(1 + e^s), never below 1 either and with a gradient everywhere.
    It starts at s = -3, where f = 1.049 and f' = 0.047: further down the start would be closer to 1 and the gradient,
    which is about f - 1 there, weaker.

    Args:
        config: sizes of the backbone.
        tokens: prompts T per block.
        start, end: prompted blocks, both inclusive; `end=None` is the last block.
        dropout: probability for each prompt element while training.
        reparam: factor on the prompts (section 3.3 of the paper): `max1`, `softplus` or `none`.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset({"scale"})

    def __init__(
        self,
        config: VitConfig,
        tokens: int,
        start: int = 0,
        end: int | None = None,
        dropout: float = 0.1,
        reparam: Literal["max1", "softplus", "none"] = "max1",
    ) -> None:
        super().__init__(config, block_range(config, start, end))
        check_count("apt", "tokens", tokens)
        self.tokens, self.dropout, self.reparam = tokens, dropout, reparam
        # The published bound counts the pixels of a patch in one frame, not of the tubelet.
        bound = math.sqrt(6 / (3 * config.patch**2 + config.head_width))
        shape = (len(self.blocks), tokens, config.head_width)
        self.key = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.value = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        first = SOFTPLUS_START if reparam == "softplus" else 1.0
        scale = nn.Parameter(torch.full((len(self.blocks), 2, tokens), first))
        self.scale = None if reparam == "none" else scale

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """`{block: (key, value)}`, each `[1, 1, T, D]`: the heads share one prompt."""
        return {
            block: ExtraKV(self._prompt(self.key, row, 0), self._prompt(self.value, row, 1))
            for row, block in enumerate(self.blocks)
        }

    def _prompt(self, table: Tensor, row: int, which: int) -> Tensor:
        prompt_TD = F.dropout(table[row], self.dropout, self.training)
        if self.scale is not None:
            prompt_TD = prompt_TD * self._factor(self.scale[row, which])[:, None]
        return prompt_TD[None, None]

    def _factor(self, scale_T: Tensor) -> Tensor:
        if self.reparam == "softplus":
            return 1 + F.softplus(scale_T)
        # torch.maximum, not clamp: its gradient at a tie is 0.5, as in the published code (methods start there).
        return torch.maximum(scale_T, torch.ones_like(scale_T))

    def health(self) -> dict[str, float]:
        """`dead_scales`: share of scales below 1 under `max1`, whose gradient is exactly zero."""
        if self.scale is None or self.reparam != "max1":
            return {}
        return {"dead_scales": (self.scale.detach() < 1).float().mean().item()}

    def parameter_count(self) -> int:
        """2D a prompt, 2 more for its scales."""
        scales = 0 if self.reparam == "none" else 2
        return len(self.blocks) * self.tokens * (2 * self.config.head_width + scales)

    def added_macs(self, deployed: bool) -> int:
        """T more keys and values in the two products of each prompted attention."""
        return len(self.blocks) * attention_macs(self.config, self.config.tokens, self.tokens)
