"""What every tuning method is: parameters while training, constants afterwards.

Shapes: L blocks, T prompt tokens, H heads, D head width, C width.
"""

from __future__ import annotations

import torch
from torch import nn

from apt_edge.backbone.vit import ExtraKV, Vit, VitConfig
from apt_edge.errors import ConfigError


class Method(nn.Module):
    """A way of parameterising the extra keys and values of each block.

    Args:
        config: sizes of the backbone that the method is made for.
        blocks: the prompted blocks.
    """

    def __init__(self, config: VitConfig, blocks: range) -> None:
        super().__init__()
        if blocks and not 0 <= blocks.start < blocks.stop <= config.depth:
            raise ConfigError(
                f"blocks {blocks.start} to {blocks.stop - 1} are not blocks of this backbone",
                fix=f"choose within 0 to {config.depth - 1}",
            )
        self.blocks = blocks
        self.first_block = blocks.start if blocks else config.depth

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """Extra keys and values of each prompted block, differentiable in the method's parameters."""
        raise NotImplementedError

    def fold(self, vit: Vit) -> dict[int, ExtraKV]:
        """The constants that this method becomes after training: no dropout, scales multiplied in, no gradient."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return {block: ExtraKV(*(t.clone() for t in kv)) for block, kv in self.extra(vit).items()}
        finally:
            self.train(was_training)


def prompt_range(config: VitConfig, start: int, end: int | None) -> range:
    """Blocks `start` to `end`, both inclusive as in the APT paper; `None` stands for the last block."""
    last = config.depth - 1 if end is None else end
    if last < start:
        raise ConfigError(f"the last prompted block {last} lies before the first one {start}", fix="set start <= end")
    return range(start, last + 1)
