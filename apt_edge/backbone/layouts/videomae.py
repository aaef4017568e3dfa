"""VideoMAE as its authors save it: pre-training, fine-tuning, version 2, and APT, which puts prompts beside it."""

from __future__ import annotations

from apt_edge.backbone.layouts.base import Converted, Hints, Shapes, Tensors


def recognises(shapes: Shapes) -> bool:
    """The joint qkv weight of a block, whatever stands before it."""
    return any(name.endswith("blocks.0.attn.qkv.weight") for name in shapes)


def convert(tensors: Tensors, hints: Hints) -> Converted:
    """The tensors under our names."""
    raise NotImplementedError
