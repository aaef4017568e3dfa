"""LoRA (arXiv 2106.09685) on the queries and values of each block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apt_edge.backbone.blocks import Bottleneck
from apt_edge.backbone.vit import Block, VitConfig
from apt_edge.methods.adapters import AdapterMethod
from apt_edge.methods.base import check_count
from apt_edge.methods.cost import bottleneck_macs


class Factors(nn.Module):
    """The low-rank products of one block; `down` is the paper's A, `up` its B."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.query, self.value = Bottleneck(width, rank, bias=False), Bottleneck(width, rank, bias=False)


class Lora(AdapterMethod[Factors]):
    """LoRA: q = (W_q + a/r B_q A_q) n + b_q and v = (W_v + a/r B_v A_v) n + b_v, with n = LN1 x.

    On queries and values, as in the paper's section 4.2. A starts kaiming-uniform with a = sqrt 5 and B at 0
    (microsoft/LoRA loralib/layers.py, reset_parameters), so that training begins at the untouched backbone.

    Deployed, the products are added to the backbone's weights: nothing is left to compute. The pack holds the factors.

    Args:
        config: sizes of the backbone.
        rank: r of each product.
        alpha: a, constant; a fixed one makes the learning rate depend less on the rank.
        start, end: adapted blocks, both inclusive; `end=None` is the last block.
    """

    reason = "it changes the projections, not the keys and values that they give"
    deployment = "the backbone with the low-rank products added to its query and value weights"
    form = "low-rank"
    scaled = ("query.up.", "value.up.")

    def __init__(
        self, config: VitConfig, rank: int = 8, alpha: float = 16.0, start: int = 0, end: int | None = None
    ) -> None:
        check_count("lora", "rank", rank)
        super().__init__(config, start, end, lambda: Factors(config.width, rank))
        self.rank, self.factor = rank, alpha / rank

    def adapted(self, block: Block, adapter: Factors, x_BNC: Tensor) -> Tensor:
        """One block with its products beside the query and value weights."""
        attn = block.attn
        n_BNC = attn.apart(block.norm1(x_BNC))
        query, key, value = attn.project(n_BNC)
        deltas = [factors.up(factors.down(n_BNC)) for factors in (adapter.query, adapter.value)]
        query_delta, value_delta = attn.split(self.factor * torch.cat(deltas, dim=2), 2)
        x_BNC = x_BNC + attn.attend(query + query_delta, key, value + value_delta)
        return x_BNC + block.mlp(x_BNC)

    def parameter_count(self) -> int:
        """2 C r for each of two products a block."""
        return 4 * len(self.blocks) * self.config.width * self.rank

    def added_macs(self, deployed: bool) -> int:
        """While training 2 N C r for each product, afterwards nothing."""
        return 0 if deployed else 2 * len(self.blocks) * bottleneck_macs(self.config, self.rank)
