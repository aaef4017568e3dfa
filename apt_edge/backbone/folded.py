"""A backbone with a pack's constants and changes: the model after training, whatever method made the pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import backbone_hash
from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import ExtraKV, Head, Vit
from apt_edge.errors import PackError
from apt_edge.pack import PromptPack


class FoldedModel(nn.Module):
    """Clips to logits with constant extra keys and values.

    Args:
        vit: the frozen backbone, changed where the method does not fold.
        head: the tuned head.
        extra: constants `[1, h, n, d]` of each prompted block.
    """

    def __init__(self, vit: Vit, head: Head, extra: Mapping[int, ExtraKV]) -> None:
        super().__init__()
        self.vit, self.head, self.prompted = vit, head, sorted(extra)
        for block, kv in extra.items():  # buffers: they follow the model to another device or type
            self.register_buffer(f"key_{block}", kv.key)
            self.register_buffer(f"value_{block}", kv.value)

    @property
    def extra(self) -> dict[int, ExtraKV]:
        """The constants `[1, h, n, d]` of each prompted block."""
        return {b: ExtraKV(self.get_buffer(f"key_{b}"), self.get_buffer(f"value_{b}")) for b in self.prompted}

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Returns logits `[B, classes]`."""
        return self.head(self.vit(clip_BCTHW, self.extra))


def folded_model(pack: PromptPack, vit: Vit, name: str = "the backbone", pack_path: str | Path = "pack") -> FoldedModel:
    """Join a pack and its backbone; raises PackError when they do not belong together."""
    pack.check_backbone(name, backbone_hash(vit), pack_path)
    config = vit.config
    if (pack.clip.frames, pack.clip.size) != (config.frames, config.size):
        raise PackError(
            f"{pack_path} was made for clips of {pack.clip.frames} frames at {pack.clip.size} pixels",
            found=f"a backbone for {config.frames} frames at {config.size} pixels",
        )
    extra = {}
    for block, (key, value) in pack.kv.items():
        heads, _, width = key.shape
        if block >= config.depth or heads not in (1, config.heads) or width != config.head_width:
            raise PackError(f"{pack_path}: block {block} with {heads} heads of {width} does not fit {name}")
        extra[block] = ExtraKV(torch.from_numpy(key)[None], torch.from_numpy(value)[None])
    head = Head(config.width, len(pack.labels), eps=config.pool_eps)
    head.load_state_dict(
        {
            "norm.weight": torch.from_numpy(pack.head["norm.weight"]),
            "norm.bias": torch.from_numpy(pack.head["norm.bias"]),
            "linear.weight": torch.from_numpy(pack.head["weight"]),
            "linear.bias": torch.from_numpy(pack.head["bias"]),
        }
    )
    vit = changed(vit, pack.form, {name: torch.from_numpy(array) for name, array in pack.changes.items()})
    return FoldedModel(vit, head.requires_grad_(False), extra).eval()
