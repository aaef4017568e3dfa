"""What the layouts have in common: the same blocks under other names.

Shapes: L blocks, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apt_edge.backbone.layouts.base import Converted, ForeignHead, Tensors, check_finite
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


# Whose blocks a family has, and what to give instead of others.
WHOSE = {
    "videomae": ("VideoMAE's", "give a checkpoint of VideoMAE, or of version 2 in the same layout"),
    "clip": ("CLIP's image encoder", "give OpenAI's own weights, without adapters"),
}

# Reasons that more than one layout gives.
LAST_NORM = "the norm behind the last block: the mean over the tokens is taken before it"
LONE_NORM = "a norm behind the mean without a classifier"
DECODER = "part of the pre-training's decoder"


@dataclass(frozen=True)
class Names:
    """Their names.

    Attributes:
        patch: of the patch embedding.
        blocks: what stands before a block's index.
        parts: {ours: theirs} of a block's parts that have weight and bias.
        joint: weight and bias of the joint projection to queries, keys and values; empty when there are three.
        split: of the three.
        bias: of their biases, with `{}` for q, k, v; those of the projections themselves are taken as well.
    """

    patch: str
    blocks: str
    parts: Mapping[str, str]
    joint: tuple[str, str] | tuple[()] = ()
    split: tuple[str, str, str] | tuple[()] = ()
    bias: str = ""

    def convert(self, tensors: Tensors, prefix: str, result: Converted) -> None:
        """Patch embedding and blocks of `tensors`, whose names start with `prefix`, into `result`."""
        for kind in ("weight", "bias"):
            result.take(f"patch.{kind}", f"{prefix}{self.patch}.{kind}", tensors)
        self.convert_blocks(tensors, prefix, result)

    def convert_blocks(self, tensors: Tensors, prefix: str, result: Converted) -> None:
        """The blocks alone.

        Raises:
            BackboneError: a bias on the keys, where the family has none.
        """
        blocks = [f"{prefix}{self.blocks}{index}." for index in range(result.config.depth)]
        biased = any(self._bias(tensors, block, place)[1] is not None for block in blocks for place in range(3))
        unbiased = not biased and result.config.family == "videomae"
        if unbiased:
            result.notes.append(
                "queries and values have no biases in any block (qkv_bias is off): zeros, which is exact"
            )
        for index, theirs in enumerate(blocks):
            ours = f"blocks.{index}."
            for part, name in self.parts.items():
                for kind in ("weight", "bias"):
                    result.take(f"{ours}{part}.{kind}", f"{theirs}{name}.{kind}", tensors)
            self._weight(tensors, theirs, f"{ours}attn.qkv.weight", result)
            for place, letter in enumerate("qkv"):
                found = self._bias(tensors, theirs, place)
                if letter == "k" and result.config.family == "videomae":
                    _refuse_key_bias(*found, result)
                elif unbiased:
                    result.tensors.put(f"{ours}attn.{letter}_bias", torch.zeros(result.config.width))
                else:
                    _put_bias(*found, f"{ours}attn.{letter}_bias", result)

    def _weight(self, tensors: Tensors, theirs: str, ours: str, result: Converted) -> None:
        names = [theirs + name for name in self.joint[:1]] or [f"{theirs}{name}.weight" for name in self.split]
        if absent := [name for name in names if name not in tensors]:
            result.missing += absent
        else:
            result.tensors.put(ours, *(tensors[name] for name in names))
            result.used[ours] = " + ".join(names)

    def _bias(self, tensors: Tensors, theirs: str, place: int) -> tuple[str, Tensor | None]:
        """Name and bias of queries, keys or values; None where there is none of that name."""
        own = [theirs + self.bias.format("qkv"[place])] if self.bias else []
        for name in [*own, *(f"{theirs}{stem}.bias" for stem in self.split[place : place + 1])]:
            if name in tensors:
                return name, tensors[name]
        joint = [theirs + name for name in self.joint[1:]]
        if joint and joint[0] in tensors:
            return joint[0], tensors[joint[0]].chunk(3)[place]
        return (own or joint)[0], None


def _put_bias(name: str, bias: Tensor | None, ours: str, result: Converted) -> None:
    if bias is not None:
        result.tensors.put(ours, bias)
        result.used[ours] = name
    elif name not in result.missing:
        result.missing.append(name)


def _refuse_key_bias(name: str, bias: Tensor | None, result: Converted) -> None:
    if bias is None:
        return
    if bias.any():
        raise BackboneError(
            f"{name} is not zero",
            found=f"up to {bias.abs().max():.3g}",
            fix="VideoMAE has no bias on its keys; beside constant keys it would change the result, so it cannot "
            "be left out: give another checkpoint",
        )
    result.ignored.setdefault(name, "a key bias of zeros")


def explain(tensors: Tensors, result: Converted, reasons: Mapping[str, str], blocks: str) -> None:
    """Give every tensor that was not used its reason in `result.ignored`.

    Args:
        tensors: all of the source.
        result: what was used of it.
        reasons: {beginning of a name: reason}.
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
            whose, fix = WHOSE[result.config.family]
            raise BackboneError(
                f"this backbone computes something else than {whose}",
                found=f"{name}: {other or 'a part of a block that it does not have'}",
                fix=fix,
            )
        if not reason:
            unknown.append(name)
        result.ignored[name] = reason or "unknown to this layout"
    if unknown:
        result.warnings.append(f"{len(unknown)} tensors are unknown and were left out: {', '.join(unknown[:4])}")


def take_head(tensors: Tensors, result: Converted, norm: str, linear: str) -> None:
    """The head, when all four tensors of norm and classifier are there.

    Raises:
        BackboneError: they do not fit each other and the width of the backbone.
    """
    names = {
        "norm.weight": f"{norm}.weight",
        "norm.bias": f"{norm}.bias",
        "weight": f"{linear}.weight",
        "bias": f"{linear}.bias",
    }
    if not all(name in tensors for name in names.values()):
        return
    head = ForeignHead(*(tensors[name] for name in names.values()))
    width, classes = result.config.width, len(head.bias) if head.bias.dim() else 0
    shapes = [tuple(tensors[name].shape) for name in names.values()]
    if shapes != [(width,), (width,), (classes, width), (classes,)] or not classes:
        raise BackboneError(
            "the head of the checkpoint does not fit its backbone",
            found=", ".join(f"{name} {list(tensors[name].shape)}" for name in names.values()),
            fix=f"a norm of {width} numbers, and a classifier of as many columns with one bias a class",
        )
    for name in names.values():
        check_finite(name, tensors[name])
    result.head = head
    result.used |= {f"head.{ours}": theirs for ours, theirs in names.items()}
