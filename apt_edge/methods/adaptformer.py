"""AdaptFormer (arXiv 2205.13535): a small ReLU bottleneck beside the MLP of each block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from apt_edge.backbone.blocks import Bottleneck
from apt_edge.backbone.vit import Block, VitConfig
from apt_edge.methods.adapters import AdapterMethod
from apt_edge.methods.base import check_count
from apt_edge.methods.cost import bottleneck_macs, bottleneck_parameters


class AdaptFormer(AdapterMethod[Bottleneck]):
    """AdaptFormer: h = x + attn(LN1 x); y = h + mlp(LN2 h) + s * (U dropout(ReLU(D h + d)) + u).

    The adapter reads the residual stream h as it is, without a norm, as in the paper's figure
    (ShoufaChen/AdaptFormer models/vit_video.py:130-147). D starts kaiming-uniform with a = sqrt 5, U and both biases
    at 0 (adapter.py:43-48), so that training begins at the untouched backbone.

    Deployed, U joins fc2: [W2  sU] [GELU(fc1 LN2 h) ; ReLU(D h + d)] + b2 + s u. One product instead of two.

    Args:
        config: sizes of the backbone.
        r: width of the bottleneck; published 1, 4 and 64. A multiple of 8 keeps the rows of the wider fc2 aligned to
            16 bytes in float16.
        scale: s, constant.
        dropout: probability inside the bottleneck while training; published 0 for video.
        start, end: adapted blocks, both inclusive; `end=None` is the last block.
    """

    reason = "it works beside the MLP, not in the attention"
    deployment = "a wider second MLP layer that the bottleneck's second layer is merged into"
    form = "parallel"
    draws_per_clip = True
    scaled = ("up.",)

    def __init__(
        self,
        config: VitConfig,
        r: int = 64,
        scale: float = 0.1,
        dropout: float = 0.0,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        check_count("adaptformer", "r", r)
        super().__init__(config, start, end, lambda: Bottleneck(config.width, r))
        self.r, self.factor, self.dropout = r, scale, dropout

    def adapted(self, block: Block, adapter: Bottleneck, x_BNC: Tensor) -> Tensor:
        """One block with its adapter beside the MLP."""
        x_BNC = x_BNC + block.attn(block.norm1(x_BNC))
        hidden_BNR = F.dropout(F.relu(adapter.down(x_BNC)), self.dropout, self.training)
        return x_BNC + block.mlp(x_BNC) + self.factor * adapter.up(hidden_BNR)

    def parameter_count(self) -> int:
        """2 C r + r + C a block."""
        return len(self.blocks) * bottleneck_parameters(self.config, self.r)

    def added_macs(self, deployed: bool) -> int:
        """2 N C r a block, merged or not."""
        return len(self.blocks) * bottleneck_macs(self.config, self.r)
