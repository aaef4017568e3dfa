"""AIM (arXiv 2302.03024) in a joint form of our own: adapters after the attention and beside the MLP."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.blocks import Bottleneck
from apt_edge.backbone.vit import Block, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.adapters import AdapterMethod
from apt_edge.methods.cost import bottleneck_macs, bottleneck_parameters


class Branches(nn.Module):
    """The adapters of one block: after the attention and beside the MLP."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.attn, self.mlp = Bottleneck(width, rank), Bottleneck(width, rank)
        for branch in (self.attn, self.mlp):
            nn.init.trunc_normal_(branch.down.weight, std=0.02)


class Aim(AdapterMethod[Branches]):
    """AIM-joint: z = attn(LN1 x); x += z + A_s(z); n = LN2 x; x += mlp(n) + s A_m(n); A(y) = U GELU(D y + d) + u.

    This is OUR form for VideoMAE, not the published model. The published one (taoyang1122/adapt-image-models
    vit_clip.py:76-92) makes CLIP's attention inside each frame look along time as well: a second pass with adapters of
    its own and a temporal embedding. VideoMAE's attention spans space and time already, so that pass is left out. What
    stays are the spatial adapter behind the attention's projection, with its skip, and the one beside the MLP, without.

    D starts from a normal distribution of 0.02, U and the biases at 0 (vit_clip.py, init_weights), so that training
    begins at the untouched backbone.

    Deployed, D of A_s is multiplied into the attention's projection, [W ; D W] in one product, and A_m, which has the
    MLP's input and activation, is a wider MLP: [W1 ; D] and [W2  sU].

    Args:
        config: sizes of the backbone.
        ratio: width of the bottlenecks as a part of C.
        scale: s; published 0.5 for Kinetics-400 and 1 for Something-Something.
        start, end: adapted blocks, both inclusive; `end=None` is the last block.
    """

    reason = "it works behind the attention and beside the MLP"
    deployment = "a wider attention projection with one more product behind it, and a wider MLP"
    form = "serial"
    scaled = ("mlp.up.",)

    def __init__(
        self, config: VitConfig, ratio: float = 0.25, scale: float = 0.5, start: int = 0, end: int | None = None
    ) -> None:
        if config.family != "videomae":
            raise ConfigError(
                "aim is merged into a GELU MLP, and this backbone's has another activation",
                found=f"the family {config.family}",
                fix="take adaptformer or lora",
            )
        rank = int(config.width * ratio)
        if rank < 1:
            raise ConfigError("aim needs bottlenecks of at least one channel", found=f"ratio {ratio:g}")
        super().__init__(config, start, end, lambda: Branches(config.width, rank))
        self.rank, self.factor = rank, scale

    def adapted(self, block: Block, adapter: Branches, x_BNC: Tensor) -> Tensor:
        """One block with both adapters."""
        z_BNC = block.attn(block.norm1(x_BNC))
        x_BNC = x_BNC + z_BNC + _bottleneck(adapter.attn, z_BNC)
        n_BNC = block.norm2(x_BNC)
        return x_BNC + block.fc2(block.activation(block.fc1(n_BNC))) + self.factor * _bottleneck(adapter.mlp, n_BNC)

    def parameter_count(self) -> int:
        """Two bottlenecks a block."""
        return 2 * len(self.blocks) * bottleneck_parameters(self.config, self.rank)

    def added_macs(self, deployed: bool) -> int:
        """4 N C A a block: merging saves products, not multiplications."""
        return 2 * len(self.blocks) * bottleneck_macs(self.config, self.rank)


def _bottleneck(adapter: Bottleneck, x_BNC: Tensor) -> Tensor:
    return adapter.up(F.gelu(adapter.down(x_BNC)))
