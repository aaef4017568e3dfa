"""Visual Prompt Tuning, deep (arXiv 2203.12119), in its video form: fresh prompt tokens in each block.

The prompts' own output rows are thrown away after each block (ShoufaChen/AdaptFormer models/vit_video.py:303-309), so
only their keys and values matter. Training uses those directly; `VptDeepTokens` drags the tokens along.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import Block, ExtraKV, Head, Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.base import Deployed, Method, block_range, check_count
from apt_edge.methods.cost import LAYER_NORM, attention_macs, token_macs


class VptDeep(Method):
    """VPT-deep: T prompts of the full width in each block, through the block's own LayerNorm and projections.

    K' = [K ; W_k LN1(P)], V' = [V ; W_v LN1(P) + b_v] where the prompts' output rows are dropped after each block.

    With `pool = "all"` the head averages the last block's prompt rows too, as KMnP/vpt does on masked autoencoders
    (vit_mae.py:118-136, its default). Those rows depend on the video: the last block cannot be folded, all others are.

    Args:
        config: sizes of the backbone.
        tokens: prompts T per block.
        start, end: prompted blocks, both inclusive; `end=None` is the last block.
        dropout: probability for each prompt element while training, one mask a batch; the video form has none.
        pool: what the head averages, the `video` tokens or `all` rows of the last block.
    """

    def __init__(
        self,
        config: VitConfig,
        tokens: int,
        start: int = 0,
        end: int | None = None,
        dropout: float = 0.0,
        pool: Literal["video", "all"] = "video",
    ) -> None:
        super().__init__(config, block_range(config, start, end))
        check_count("vpt-deep", "tokens", tokens)
        self.tokens, self.dropout, self.pool = tokens, dropout, pool
        if pool == "all":
            if config.per_frame:
                raise ConfigError(
                    "vpt-deep does not pool over prompts where the head averages class tokens", fix='set pool = "video"'
                )
            self.folds = False
            self.reason = "the head averages the prompts' rows of the last block, and those depend on the video"
            self.deployment = "constant keys and values, and in the last block tokens with constant queries as well"
            if self.blocks[-1] != config.depth - 1:
                raise ConfigError(
                    "vpt-deep pools over prompts that are not there: the last block has none",
                    found=f"end {self.blocks[-1]}",
                    fix='leave end out, or set pool = "video"',
                )
        # xavier_uniform on a [1, T, C] tensor, as the video form does it: fan-in T * C, fan-out C.
        bound = math.sqrt(6 / (config.width * (tokens + 1)))
        self.prompts = nn.Parameter(torch.empty(len(self.blocks), tokens, config.width).uniform_(-bound, bound))

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """`{block: (key, value)}`, each `[1, H, T, D]`; without the last block when the head reads its prompts."""
        folded = self.blocks if self.pool == "video" else self.blocks[:-1]
        return {block: self._project(vit.block(block), row) for row, block in enumerate(folded)}

    def run(self, vit: Vit, x_BNC: Tensor) -> Tensor:
        """Blocks from the first prompted one; with `pool = "all"` the result has N + T rows."""
        if self.pool == "video":
            return super().run(vit, x_BNC)
        last = self.blocks[-1]
        x_BNC = vit.run_blocks(x_BNC, self.extra(vit), start=self.first_block, stop=last)
        prompts_BTC = self._dropped(-1).to(x_BNC.dtype).expand(len(x_BNC), -1, -1)
        return vit.run_blocks(torch.cat([x_BNC, prompts_BTC], dim=1), start=last)

    def _dropped(self, row: int) -> Tensor:
        return F.dropout(self.prompts[row], self.dropout, self.training)

    def _project(self, block: Block, row: int) -> ExtraKV:
        _, key, value = block.attn.project(block.norm1(self._dropped(row)[None]))
        return ExtraKV(key, value)

    def deploy(self, vit: Vit) -> Deployed:
        """Constants; with `pool = "all"` the last block's prompts as tokens."""
        if self.folds:
            return super().deploy(vit)
        pooled = {f"module.{self.blocks[-1]}.pooled": self.prompts[-1].detach().clone()}
        return Deployed(self._constants(vit), "tokens", pooled)

    def parameter_count(self) -> int:
        """C a prompt."""
        return len(self.blocks) * self.tokens * self.config.width

    def added_macs(self, deployed: bool) -> int:
        """Published: everything for T more tokens. Deployed: T more keys and values.

        With `pool = "all"` the last block's tokens still ask, and run through projection and MLP.
        """
        config, tokens = self.config, self.tokens
        if not deployed:
            return len(self.blocks) * token_macs(config, tokens)
        constants = attention_macs(config, config.tokens, tokens)
        if self.pool == "video":
            return len(self.blocks) * constants
        given = 3 * tokens * config.width**2 + LAYER_NORM * tokens * config.width  # queries, keys, values; first norm
        return (len(self.blocks) - 1) * constants + token_macs(config, tokens) - given


class VptDeepTokens(nn.Module):
    """VPT-deep as published: prompts prepended before each prompted block and stripped after it.

    A head that averages all rows (`pool = "all"`) gets the last block's prompts too. Equal to the folded form and
    dearer: T more tokens in every projection and MLP. Used by proofs and benchmarks.
    """

    def __init__(self, vit: Vit, method: VptDeep, head: Head) -> None:
        super().__init__()
        self.vit, self.method, self.head = vit, method, head

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Returns logits `[B, classes]`."""
        x_BNC = self.vit.embed(clip_BCTHW)
        last = len(self.vit.blocks) - 1
        for index in range(last + 1):
            block = self.vit.block(index)
            if index not in self.method.blocks:
                x_BNC = block(x_BNC)
                continue
            prompts_TC, own_BNC = self.method.prompts[index - self.method.blocks.start], block.attn.apart(x_BNC)
            with_prompts = torch.cat([prompts_TC.to(x_BNC.dtype).expand(len(own_BNC), -1, -1), own_BNC], dim=1)
            x_BNC = block(block.attn.together(with_prompts))
            if self.method.pool == "video" or index < last:
                x_BNC = block.attn.together(block.attn.apart(x_BNC)[:, len(prompts_TC) :])
        return self.head(self.vit.read_out(x_BNC))
