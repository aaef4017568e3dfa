"""Visual Prompt Tuning, shallow (arXiv 2203.12119): prompt tokens that enter once and flow through all blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.base import Deployed, Method, check_count
from apt_edge.methods.cost import LAYER_NORM, token_macs


class VptShallow(Method):
    """VPT-shallow: X' = [X + positions ; dropout(P)] runs through the backbone, the head averages the video's rows.

    As in KMnP/vpt (vit.py:43-87): the prompts get no position, each clip of a batch has a dropout mask of its own, the
    initial bound sqrt(6 / (3 * patch^2 + C)) counts the pixels of a patch in one frame. There a class token is read or
    all rows are averaged; VideoMAE has no class token, and the video's rows are what every method here averages.

    Args:
        config: sizes of the backbone.
        tokens: prompts T.
        dropout: probability for each prompt element while training.
    """

    folds = False
    draws_per_clip = True
    reason = "behind the first block the prompts' rows depend on the video"
    deployment = (
        "tokens with constant queries, keys and values in the first block, and keys and values alone in the last"
    )

    def __init__(self, config: VitConfig, tokens: int, dropout: float = 0.0) -> None:
        super().__init__(config, range(config.depth))
        check_count("vpt-shallow", "tokens", tokens)
        if config.per_frame:
            raise ConfigError(
                "vpt-shallow has no per-frame form: its tokens would flow through each time step alone",
                fix="take vpt-deep, or the joint form of the backbone",
            )
        if config.depth < 2:
            raise ConfigError("vpt-shallow on a single block is vpt-deep", fix="use vpt-deep: it folds")
        self.tokens, self.dropout = tokens, dropout
        bound = math.sqrt(6 / (3 * config.patch**2 + config.width))
        self.prompts = nn.Parameter(torch.empty(tokens, config.width).uniform_(-bound, bound))

    def run(self, vit: Vit, x_BNC: Tensor) -> Tensor:
        """All blocks on N + T rows; returns the video's."""
        video = x_BNC.shape[1]
        prompts_BTC = F.dropout(self.prompts.expand(len(x_BNC), -1, -1), self.dropout, self.training)
        return vit.run_blocks(torch.cat([x_BNC, prompts_BTC.to(x_BNC.dtype)], dim=1))[:, :video]

    def deploy(self, vit: Vit) -> Deployed:
        """The form `tokens`, entering at block 0."""
        return Deployed(form="tokens", changes={"module.0.tokens": self.prompts.detach().clone()})

    def parameter_count(self) -> int:
        """C a prompt."""
        return self.tokens * self.config.width

    def added_macs(self, deployed: bool) -> int:
        """Published: everything for T more tokens in all blocks.

        Deployed, less: the first block's norm and projections of the T, and the last block's queries, output
        projection, MLP and second norm of theirs.
        """
        config, tokens, width = self.config, self.tokens, self.config.width
        every = config.depth * token_macs(config, tokens)
        if not deployed:
            return every
        norm, video = LAYER_NORM * tokens * width, config.tokens
        first = 3 * tokens * width**2 + norm
        asking = 2 * tokens * (video + tokens) * width
        last = (2 * width + 2 * config.hidden) * tokens * width + norm + asking
        return every - first - last
