"""Checkpoints in other people's layouts; which one it is, is seen from the tensors' names and shapes alone.

A layout is a module with two functions: `recognises(shapes) -> bool` for {name: shape} with all wrappers (`module`,
`model`, `state_dict`) taken off, and `convert(tensors, hints) -> Converted`.
"""

from __future__ import annotations

from typing import Protocol

from apt_edge.backbone.layouts import adaptformer, clip, huggingface, videomae
from apt_edge.backbone.layouts.base import Converted, Hints, Shapes, Tensors
from apt_edge.errors import BackboneError


class Layout(Protocol):
    """What a module of this folder has."""

    def recognises(self, shapes: Shapes) -> bool:
        """Whether these are names and shapes of this layout."""

    def convert(self, tensors: Tensors, hints: Hints) -> Converted:
        """The tensors under our names; raises BackboneError when they cannot be used."""


LAYOUTS: dict[str, Layout] = {
    "videomae": videomae,
    "huggingface": huggingface,
    "adaptformer": adaptformer,
    "clip": clip,
}


def find_layout(shapes: Shapes, source: str) -> str:
    """Name of the layout; raises BackboneError naming a few of the keys when it is none of ours."""
    for name, layout in LAYOUTS.items():
        if layout.recognises(shapes):
            return name
    some = ", ".join(list(shapes)[:4]) or "no tensor"
    raise BackboneError(
        f"{source} holds no backbone in a layout that is known",
        found=f"{len(shapes)} tensors: {some}",
        fix=f"give one of: {', '.join(LAYOUTS)}",
    )
