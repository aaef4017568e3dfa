"""Full fine-tuning: every weight of the backbone is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from apt_edge.backbone.vit import Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.base import Deployed, Method
from apt_edge.methods.cost import backbone_parameters


class Full(Method):
    """Full tuning as VideoMAE does it (run_class_finetuning.py), with stochastic depth and rates that fall with depth.

    x += d(attn(LN1 x)); x += d(mlp(LN2 x)), where d drops a branch of one clip with a probability that rises linearly
    from 0 in the first block to `drop_path` in the last, and divides what it keeps by 1 - p. The learning rate of block
    i is multiplied by `layer_decay`^(L - i), that of the patch embedding by `layer_decay`^(L + 1)
    (optim_factory.py, get_num_layer_for_vit). The dropout before the classifier, off by default there, is left out.

    Args:
        config: sizes of the backbone.
        layer_decay: factor on the learning rate from one block to the one below it.
        drop_path: probability in the last block.
    """

    folds = False
    reason = "there is no prompt in it"
    deployment = "a backbone of its own with every weight replaced"
    tunes_backbone = True
    draws_per_clip = True

    def __init__(self, config: VitConfig, layer_decay: float = 0.75, drop_path: float = 0.1) -> None:
        super().__init__(config, range(config.depth))
        if not 0 < layer_decay <= 1 or not 0 <= drop_path < 1:
            raise ConfigError(
                "full tuning needs 0 < layer_decay <= 1 and 0 <= drop_path < 1",
                found=f"{layer_decay:g} and {drop_path:g}",
            )
        self.layer_decay = layer_decay
        self.drop_rates = torch.linspace(0, drop_path, config.depth).tolist()

    def run(self, vit: Vit, x_BNC: Tensor) -> Tensor:
        """All blocks, with stochastic depth while training."""
        for index, rate in enumerate(self.drop_rates):
            block = vit.block(index)
            x_BNC = x_BNC + self._drop_path(block.attn(block.norm1(x_BNC)), rate)
            x_BNC = x_BNC + self._drop_path(block.mlp(x_BNC), rate)
        return vit.read_out(x_BNC)

    def _drop_path(self, branch_BNC: Tensor, rate: float) -> Tensor:
        if not self.training or rate == 0:
            return branch_BNC
        kept_B11 = torch.empty_like(branch_BNC[:, :1, :1]).bernoulli_(1 - rate)
        return branch_BNC * kept_B11 / (1 - rate)

    def rate_factor(self, name: str) -> float:
        """Falls from the head, 1, to the patch embedding."""
        if not name.startswith("vit."):
            return 1.0
        _, part, *inside = name.split(".")
        above = self.config.depth - int(inside[0]) if part == "blocks" else self.config.depth + 1
        return self.layer_decay**above

    def deploy(self, vit: Vit) -> Deployed:
        """The form `override` with the whole backbone."""
        tensors = {f"override.{name}": tensor.detach().clone() for name, tensor in vit.state_dict().items()}
        return Deployed(form="override", changes=tensors)

    def parameter_count(self) -> int:
        """The backbone's own."""
        return backbone_parameters(self.config)

    def added_macs(self, deployed: bool) -> int:
        """None: other weights, the same work."""
        return 0
