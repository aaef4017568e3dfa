"""What the VideoMAE layouts have in common: the same blocks under other names.

Shapes: L blocks, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apt_edge.backbone.layouts.base import Converted, ForeignHead, Tensors
from apt_edge.errors import BackboneError

# Parts of a block that change what it computes, and what they are.
OTHER_BLOCKS = {
    "logit_scale": "cosine attention",
    "gamma_1": "a layer scale",
    "gamma_2": "a layer scale",
    "q_norm": "a norm on the queries",
    "k_norm": "a norm on the keys",
    "relative_position_bias_table": "relative positions",
    "cls_token": "a class token",
    "class_token": "a class token",
    "dist_token": "a distillation token",
}


@dataclass(frozen=True)
class Names:
    """Their names.

    Attributes:
        patch: of the patch embedding.
        blocks: what stands before a block's index.
        parts: {ours: theirs} of a block's parts that have weight and bias.
        joint: of the joint projection to queries, keys and values; empty when there are three.
        split: of the three.
        bias: of their biases, with `{}` for q, k, v; those of the projections themselves are taken as well.
    """

    patch: str
    blocks: str
    parts: Mapping[str, str]
    joint: str
    split: tuple[str, str, str] | tuple[()]
    bias: str

    def convert(self, tensors: Tensors, prefix: str, result: Converted) -> None:
        """Patch embedding and blocks of `tensors`, whose names start with `prefix`, into `result`."""
        for kind in ("weight", "bias"):
            result.take(f"patch.{kind}", f"{prefix}{self.patch}.{kind}", tensors)
        for index in range(result.config.depth):
            theirs, ours = f"{prefix}{self.blocks}{index}.", f"blocks.{index}."
            for part, name in self.parts.items():
                for kind in ("weight", "bias"):
                    result.take(f"{ours}{part}.{kind}", f"{theirs}{name}.{kind}", tensors)
            self._attention(tensors, theirs, f"{ours}attn.", result)

    def _attention(self, tensors: Tensors, theirs: str, ours: str, result: Converted) -> None:
        if self.joint:
            result.take(f"{ours}qkv.weight", f"{theirs}{self.joint}.weight", tensors)
        else:
            names = [f"{theirs}{name}.weight" for name in self.split]
            if absent := [name for name in names if name not in tensors]:
                result.missing += absent
            else:
                result.tensors[f"{ours}qkv.weight"] = torch.cat([tensors[name] for name in names])
                result.used[f"{ours}qkv.weight"] = " + ".join(names)
        found = {letter: self._bias(tensors, theirs, place) for place, letter in enumerate("qkv")}
        for letter in "qv":
            name, bias = found[letter]
            if bias is None:
                result.missing.append(name)
            else:
                result.tensors[f"{ours}{letter}_bias"], result.used[f"{ours}{letter}_bias"] = bias, name
        name, bias = found["k"]
        if bias is not None and bias.any():
            raise BackboneError(
                f"{name} is not zero",
                found=f"up to {bias.abs().max():.3g}",
                fix="VideoMAE has no bias on its keys; beside constant keys it would change the result, so it cannot "
                "be left out: give another checkpoint",
            )
        if bias is not None:
            result.ignored.setdefault(name, "a key bias of zeros")

    def _bias(self, tensors: Tensors, theirs: str, place: int) -> tuple[str, Tensor | None]:
        """Name and bias of queries, keys or values."""
        named = theirs + self.bias.format("qkv"[place])
        for name in [named, *(f"{theirs}{stem}.bias" for stem in self.split[place : place + 1])]:
            if name in tensors:
                return name, tensors[name]
        joint = f"{theirs}{self.joint}.bias"
        return (joint, tensors[joint].chunk(3)[place]) if self.joint and joint in tensors else (named, None)


def explain(tensors: Tensors, result: Converted, reasons: Mapping[str, str], blocks: str) -> None:
    """Give every tensor that was not used its reason in `result.ignored`.

    Args:
        tensors: all of the source.
        result: what was used of it.
        reasons: {beginning of a name, or a part of it between dots: reason}.
        blocks: what stands before a block's index; an unknown tensor in there is refused.

    Raises:
        BackboneError: a tensor that changes what the backbone computes in a way that ours cannot.
    """
    used = {name for names in result.used.values() for name in names.split(" + ")}
    unknown = []
    for name in tensors:
        if name in used or name in result.ignored:
            continue
        reason = next((why for start, why in reasons.items() if name.startswith(start)), "")
        other = next((what for part, what in OTHER_BLOCKS.items() if part in name.split(".")), "")
        if not reason and (other or name.startswith(blocks)):
            raise BackboneError(
                "this backbone computes something else than VideoMAE's",
                found=f"{name}: {other or 'a part of a block that VideoMAE does not have'}",
                fix="give a checkpoint of VideoMAE, or of version 2 in the same layout",
            )
        if not reason:
            unknown.append(name)
        result.ignored[name] = reason or "unknown to this layout"
    if unknown:
        result.warnings.append(f"{len(unknown)} tensors are unknown and were left out: {', '.join(unknown[:4])}")


def take_head(tensors: Tensors, result: Converted, norm: str, linear: str) -> None:
    """The head, when all four tensors of norm and classifier are there."""
    names = {
        "norm.weight": f"{norm}.weight",
        "norm.bias": f"{norm}.bias",
        "weight": f"{linear}.weight",
        "bias": f"{linear}.bias",
    }
    if all(name in tensors for name in names.values()):
        result.head = ForeignHead(*(tensors[name] for name in names.values()))
        result.used |= {f"head.{ours}": theirs for ours, theirs in names.items()}
