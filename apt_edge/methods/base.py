"""What every tuning method is: parameters while training, a cheaper exact form afterwards.

Shapes: B batch, N video tokens, T prompt tokens, L blocks, H heads, D head width, C width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from apt_edge.backbone.vit import ExtraKV, Head, Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods.cost import backbone_macs, head_macs


@dataclass(frozen=True)
class Deployed:
    """A method after training.

    Attributes:
        kv: constant keys and values `[1, h, T, D]` of each prompted block.
        form: how the backbone is changed, a key of `backbone.forms.FORMS`; empty when it is not.
        changes: the tensors of that form.
    """

    kv: Mapping[int, ExtraKV] = field(default_factory=dict)
    form: str = ""
    changes: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """A way of tuning a frozen backbone.

    A method that folds gives `extra`. One that does not sets `folds = False` and gives `run` and `deploy`.

    Args:
        config: sizes of the backbone that the method is made for.
        blocks: the blocks that it changes; empty for none.

    Attributes:
        folds: the trained method becomes constant keys and values; may depend on the settings.
        reason: why the method does not fold, if it does not.
        deployment: the exact form that reaches the device, in a sentence.
        tunes_backbone: the backbone's own weights are trained.
        undecayed: parameters that weight decay would harm, beside vectors and biases.
        draws_per_clip: what is drawn at random while training is drawn for each clip, not once for the batch.
        first_block: blocks below it see nothing of the method.
    """

    folds: bool = True
    reason: str = ""
    deployment: str = "constant keys and values in the prompted blocks"
    tunes_backbone: ClassVar[bool] = False
    undecayed: ClassVar[frozenset[str]] = frozenset()
    draws_per_clip: ClassVar[bool] = False

    def __init__(self, config: VitConfig, blocks: range) -> None:
        super().__init__()
        if blocks and not 0 <= blocks.start < blocks.stop <= config.depth:
            raise ConfigError(
                f"blocks {blocks.start} to {blocks.stop - 1} are not blocks of this backbone",
                fix=f"choose within 0 to {config.depth - 1}",
            )
        self.config = config
        self.blocks = blocks
        self.first_block = blocks.start if blocks else config.depth

    def run(self, vit: Vit, x_BNC: Tensor) -> Tensor:
        """Blocks `first_block` to the last one; returns the rows that the head averages, differentiable."""
        return vit.run_blocks(x_BNC, self.extra(vit), start=self.first_block)

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """Extra keys and values of each prompted block, differentiable in the method's parameters."""
        raise NotImplementedError

    def fold(self, vit: Vit) -> dict[int, ExtraKV]:
        """The constants that this method becomes after training: no dropout, scales multiplied in, no gradient.

        Raises:
            ConfigError: the method does not fold; the message says why and what is exported instead.
        """
        if not self.folds:
            raise ConfigError(f"{type(self).__name__} does not fold into constant keys and values: {self.why_not()}")
        return self._constants(vit)

    def _constants(self, vit: Vit) -> dict[int, ExtraKV]:
        with evaluating(self):
            return {block: ExtraKV(kv.key.clone(), kv.value.clone()) for block, kv in self.extra(vit).items()}

    def why_not(self) -> str:
        """Why the method does not fold, and what is exported instead."""
        return f"{self.reason}; it is exported as {self.deployment}"

    def deploy(self, vit: Vit) -> Deployed:
        """The cheapest exact form after training."""
        return Deployed(kv=self.fold(vit))

    def make_head(self, classes: int) -> Head:
        """The head that is trained with this method."""
        return Head(self.config.width, classes, eps=self.config.pool_eps)

    def rate_factor(self, name: str) -> float:
        """Factor on the learning rate of one trained tensor, by its name in `TunedModel`."""
        return 1.0

    def health(self) -> dict[str, float]:
        """Figures about the trained parameters that a user should see; they go into the pack."""
        return {}

    def parameter_count(self) -> int:
        """Trained numbers in closed form, without the head's."""
        raise NotImplementedError

    def added_macs(self, deployed: bool) -> int:
        """MACs of one clip beyond the bare backbone's, as published or as deployed."""
        raise NotImplementedError

    def clip_macs(self, classes: int, deployed: bool) -> int:
        """MACs of one clip through backbone, method and head, as published or in the form that is deployed."""
        return backbone_macs(self.config) + self.added_macs(deployed) + head_macs(self.config, classes)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients within the block; the module's mode is put back."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def block_range(config: VitConfig, start: int, end: int | None) -> range:
    """Blocks `start` to `end`, both inclusive as in the APT paper; `None` stands for the last block."""
    last = config.depth - 1 if end is None else end
    if last < start:
        raise ConfigError(f"the last changed block {last} lies before the first one {start}", fix="set start <= end")
    return range(start, last + 1)


def check_count(method: str, what: str, count: int) -> None:
    """Raises ConfigError unless there is at least one; nothing at all is the method linear."""
    if count < 1:
        raise ConfigError(f"{method} needs {what} of at least 1", found=str(count), fix="or use the method linear")
