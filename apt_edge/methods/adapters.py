"""What the adapter methods share: a small module in each adapted block, written into it while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar, cast

from torch import Tensor, nn

from apt_edge.backbone.vit import Block, Vit, VitConfig
from apt_edge.methods.base import Deployed, Method, block_range

Adapter = TypeVar("Adapter", bound=nn.Module)


class AdapterMethod(Method, Generic[Adapter]):
    """One module a block; after training its tensors go into the pack under their own names.

    Args:
        config: sizes of the backbone.
        start, end: adapted blocks, both inclusive; `end=None` is the last block.
        make: makes one adapter, initialised.

    Attributes:
        form: of the deployed backbone, a key of `backbone.forms.FORMS`.
        scaled: beginnings of the names of tensors that `factor` is multiplied into on the way to the pack.
    """

    folds = False
    form: ClassVar[str]
    scaled: ClassVar[tuple[str, ...]] = ()
    factor: float = 1.0

    def __init__(self, config: VitConfig, start: int, end: int | None, make: Callable[[], Adapter]) -> None:
        super().__init__(config, block_range(config, start, end))
        self.adapters = nn.ModuleList(make() for _ in self.blocks)

    def run(self, vit: Vit, x_BNC: Tensor) -> Tensor:
        """Blocks from the first adapted one."""
        for index in range(self.first_block, self.config.depth):
            block = vit.block(index)
            if index in self.blocks:
                x_BNC = self.adapted(block, cast(Adapter, self.adapters[index - self.first_block]), x_BNC)
            else:
                x_BNC = block(x_BNC)
        return vit.read_out(x_BNC)

    def adapted(self, block: Block, adapter: Adapter, x_BNC: Tensor) -> Tensor:
        """One block with its adapter, written out."""
        raise NotImplementedError

    def deploy(self, vit: Vit) -> Deployed:
        """The adapters' tensors; what can be merged into the backbone is merged when the form is applied."""
        changes = {
            f"module.{block}.{name}": tensor * (self.factor if name.startswith(self.scaled) else 1)
            for block, adapter in zip(self.blocks, self.adapters, strict=True)
            for name, tensor in adapter.state_dict().items()
        }
        return Deployed(form=self.form, changes=changes)
