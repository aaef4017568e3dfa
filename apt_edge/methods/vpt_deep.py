"""Visual Prompt Tuning, deep (arXiv 2203.12119), in its video form: fresh prompt tokens in each block.

The prompts' own output rows are thrown away after each block (ShoufaChen/AdaptFormer models/vit_video.py:303-309), so
only their keys and values matter. Training uses those directly; `VptDeepTokens` drags the tokens along.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import Block, ExtraKV, Head, Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.base import Method, prompt_range


class VptDeep(Method):
    """VPT-deep: T prompts of the full width in each block, through the block's own LayerNorm and projections.

    Args:
        config: sizes of the backbone.
        tokens: prompts T per block.
        start, end: prompted blocks, both inclusive; `end=None` is the last block.
        dropout: probability for each prompt element while training; the video form has none.
    """

    def __init__(
        self, config: VitConfig, tokens: int, start: int = 0, end: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__(config, prompt_range(config, start, end))
        if tokens < 1:
            raise ConfigError("vpt-deep needs at least one prompt token", found=str(tokens), fix="or use linear")
        self.dropout = dropout
        # xavier_uniform on a [1, T, C] tensor, as the video form does it: fan-in T * C, fan-out C.
        bound = math.sqrt(6 / (config.width * (tokens + 1)))
        self.prompts = nn.Parameter(torch.empty(len(self.blocks), tokens, config.width).uniform_(-bound, bound))

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """`{block: (key, value)}`, each `[1, H, T, D]`."""
        return {block: self._project(vit.block(block), row) for row, block in enumerate(self.blocks)}

    def _project(self, block: Block, row: int) -> ExtraKV:
        prompts_TC = F.dropout(self.prompts[row], self.dropout, self.training)
        _, key, value = block.attn.project(block.norm1(prompts_TC[None]))
        return ExtraKV(key, value)


class VptDeepTokens(nn.Module):
    """VPT-deep as published: prompts prepended before each prompted block and stripped after it.

    Equal to the folded form and dearer: T more tokens in every projection and MLP. Used by proofs and benchmarks.
    """

    def __init__(self, vit: Vit, method: VptDeep, head: Head) -> None:
        super().__init__()
        self.vit, self.method, self.head = vit, method, head

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Returns logits `[B, classes]`."""
        x_BNC = self.vit.embed(clip_BCTHW)
        for index in range(len(self.vit.blocks)):
            if index not in self.method.blocks:
                x_BNC = self.vit.run_blocks(x_BNC, start=index, stop=index + 1)
                continue
            prompts_TC = self.method.prompts[index - self.method.blocks.start].to(x_BNC.dtype)
            with_prompts = torch.cat([prompts_TC.expand(len(x_BNC), -1, -1), x_BNC], dim=1)
            x_BNC = self.vit.run_blocks(with_prompts, start=index, stop=index + 1)[:, len(prompts_TC) :]
        return self.head(x_BNC)
