"""ST-Adapter (arXiv 2206.13559): bottlenecks that look along time, on the residual stream."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from apt_edge.backbone.blocks import TemporalAdapter
from apt_edge.backbone.vit import Block, VitConfig
from apt_edge.methods.adapters import AdapterMethod
from apt_edge.methods.base import check_count
from apt_edge.methods.cost import bottleneck_macs, bottleneck_parameters

TAPS = 3


class Places(nn.Module):
    """The adapters of one block; `before_attn` only where both places are adapted."""

    def __init__(self, config: VitConfig, width: int, both: bool) -> None:
        super().__init__()
        self.before_attn = TemporalAdapter(config.width, width, config.grid[0]) if both else None
        self.before_mlp = TemporalAdapter(config.width, width, config.grid[0])


class StAdapter(AdapterMethod[Places]):
    """ST-Adapter: x += U conv_t(D x + d) + u before LN2 of a block, or before LN1 as well; conv_t is depthwise.

    As in the published code (linziyi96/st-adapter models_adapter.py:36-55, 117-127): three taps along time with a bias,
    zero padding of the bottleneck, and no activation. The filter and all biases start at 0, D and U as PyTorch starts a
    linear layer, so that training begins at the untouched backbone.

    The published backbone is CLIP with attention inside each frame, and its class token is left alone. VideoMAE has no
    class token: here the adapters act on all tokens, CLIP's class tokens among them, and a time step is a tubelet.

    Args:
        config: sizes of the backbone.
        width: channels A of the bottleneck; published 384.
        places: `mlp` has one adapter a block (published as 12x384), `both` has two (24x384).
        start, end: adapted blocks, both inclusive; `end=None` is the last block.
    """

    reason = "it changes the residual stream, not the attention"
    deployment = "two products and a depthwise convolution of three time steps before each adapted half of a block"
    form = "temporal"

    def __init__(
        self,
        config: VitConfig,
        width: int = 384,
        places: Literal["mlp", "both"] = "mlp",
        start: int = 0,
        end: int | None = None,
    ) -> None:
        check_count("st-adapter", "width", width)
        super().__init__(config, start, end, lambda: Places(config, width, places == "both"))
        self.width, self.count = width, len(self.blocks) * (2 if places == "both" else 1)

    def adapted(self, block: Block, adapter: Places, x_BNC: Tensor) -> Tensor:
        """One block with its adapters before its halves."""
        if adapter.before_attn is not None:
            x_BNC = x_BNC + adapter.before_attn(x_BNC)
        x_BNC = x_BNC + block.attn(block.norm1(x_BNC))
        x_BNC = x_BNC + adapter.before_mlp(x_BNC)
        return x_BNC + block.mlp(x_BNC)

    def parameter_count(self) -> int:
        """2 C A + 5 A + C an adapter: two layers with biases, three taps and a bias a channel."""
        return self.count * (bottleneck_parameters(self.config, self.width) + (TAPS + 1) * self.width)

    def added_macs(self, deployed: bool) -> int:
        """2 N C A + 3 N A an adapter."""
        filtered = TAPS * self.config.tokens * self.width
        return self.count * (bottleneck_macs(self.config, self.width) + filtered)
