"""Attention Prompt Tuning (arXiv 2403.06978): learnable keys and values, shared by the heads of a block."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import ExtraKV, Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.base import Method, prompt_range


class Apt(Method):
    """APT: per block T keys and T values of one head's width, dropped out, scaled by max(s, 1), concatenated.

    Order and initialisation as in the published code (wgcban/apt modeling_VPT.py:92-103, 274-303): dropout before the
    scale, one mask for the batch and all heads, prompts after the video's own keys, no bias, no position.

    Args:
        config: sizes of the backbone.
        tokens: prompts T per block.
        start, end: prompted blocks, both inclusive; `end=None` is the last block.
        dropout: probability for each prompt element while training.
        reparam: multiply by the learnable scale max(s, 1) (section 3.3 of the paper).
    """

    def __init__(
        self,
        config: VitConfig,
        tokens: int,
        start: int = 0,
        end: int | None = None,
        dropout: float = 0.1,
        reparam: bool = True,
    ) -> None:
        super().__init__(config, prompt_range(config, start, end))
        if tokens < 1:
            raise ConfigError("apt needs at least one prompt token", found=str(tokens), fix="or use the method linear")
        self.dropout = dropout
        # The published bound counts the pixels of a patch in one frame, not of the tubelet.
        bound = math.sqrt(6 / (3 * config.patch**2 + config.head_width))
        shape = (len(self.blocks), tokens, config.head_width)
        self.key = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.value = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.ones(len(self.blocks), 2, tokens)) if reparam else None

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """`{block: (key, value)}`, each `[1, 1, T, D]`: the heads share one prompt."""
        return {
            block: ExtraKV(self._prompt(self.key, row, 0), self._prompt(self.value, row, 1))
            for row, block in enumerate(self.blocks)
        }

    def _prompt(self, table: Tensor, row: int, which: int) -> Tensor:
        prompt_TD = F.dropout(table[row], self.dropout, self.training)
        if self.scale is not None:
            # torch.maximum, not clamp: its gradient at a tie is 0.5, as in the published code (methods start there).
            scale_T = self.scale[row, which]
            prompt_TD = prompt_TD * torch.maximum(scale_T, torch.ones_like(scale_T))[:, None]
        return prompt_TD[None, None]
