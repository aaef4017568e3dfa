"""Changed backbones: what a method that does not fold leaves behind, each in its cheapest exact form.

A form is a function `(vit, changes) -> None` that changes a copy of the backbone in place; `changes` are a pack's
tensors, named `override.<tensor of the backbone>` or `module.<block>.<name>`. No form knows the method that uses it.

Shapes: T further tokens, C width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from apt_edge.backbone.blocks import (
    Bottleneck,
    EnteringBlock,
    LeavingBlock,
    ParallelBlock,
    SerialProjection,
    TemporalAdapter,
    TemporalBlock,
    joined,
    summed,
)
from apt_edge.backbone.vit import Vit
from apt_edge.errors import PackError

Tensors = Mapping[str, Tensor]
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def changed(vit: Vit, form: str, changes: Tensors) -> Vit:
    """A changed copy of a frozen backbone; the backbone itself when there is no form.

    Raises:
        PackError: an unknown form, or tensors that do not fit the backbone.
    """
    if not form:
        return vit
    if form not in FORMS:
        raise PackError(f"there is no backbone form {form!r}", found=f"known: {', '.join(FORMS)}")
    changes = {name: tensor.to(vit.patch.weight) for name, tensor in changes.items()}  # its device and type
    vit = copy.deepcopy(vit)
    try:
        with torch.no_grad():
            FORMS[form](vit, changes)
    except (LookupError, ValueError, RuntimeError) as error:
        raise PackError(f"the tensors of the form {form} do not fit the backbone", found=str(error)) from None
    return vit.requires_grad_(False).eval()


def _override(vit: Vit, changes: Tensors) -> None:
    """Other weights of the same shapes."""
    tensors = {name.removeprefix("override."): tensor for name, tensor in changes.items()}
    vit.load_state_dict({**vit.state_dict(), **tensors})


def _low_rank(vit: Vit, changes: Tensors) -> None:
    """W + U D on queries and values: the backbone's own shapes."""
    width = vit.config.width
    for index, tensors in _by_block(changes).items():
        factors = _bottlenecks(width, tensors, ("query", "value"), bias=False)
        weight = vit.block(index).attn.qkv.weight
        weight[:width] += factors["query"].up.weight @ factors["query"].down.weight
        weight[2 * width :] += factors["value"].up.weight @ factors["value"].down.weight


def _parallel(vit: Vit, changes: Tensors) -> None:
    """A ReLU bottleneck on the residual stream beside the MLP."""
    for index, tensors in _by_block(changes).items():
        branch = _loaded(Bottleneck, tensors, vit.config.width, len(tensors["down.weight"]))
        vit.blocks[index] = ParallelBlock(vit.block(index), branch)


def _temporal(vit: Vit, changes: Tensors) -> None:
    """Adapters that look along time, before the attention, the MLP or both."""
    frames, _, _ = vit.config.grid
    for index, tensors in _by_block(changes).items():
        adapters = {
            place: _loaded(TemporalAdapter, own, vit.config.width, len(own["down.weight"]), frames)
            for place, own in _parts(tensors, ("before_attn", "before_mlp")).items()
        }
        block = TemporalBlock(vit.block(index), adapters.get("before_attn"), adapters.get("before_mlp"))
        vit.blocks[index] = block


def _serial(vit: Vit, changes: Tensors) -> None:
    """A GELU bottleneck after the attention's projection, with skip, and one beside the MLP behind the same norm.

    The second has the MLP's own input and activation: it is a wider MLP. CLIP's activation is another one.
    """
    if vit.config.family != "videomae":
        raise ValueError(f"the MLP of the family {vit.config.family} has no GELU")
    for index, tensors in _by_block(changes).items():
        block = vit.block(index)
        branches = _bottlenecks(vit.config.width, tensors, ("attn", "mlp"))
        block.attn.register_module("proj", SerialProjection(block.attn.proj, branches["attn"]))
        beside = branches["mlp"]
        block.fc1 = joined(block.fc1, beside.down.weight, beside.down.bias)
        block.fc2 = summed(block.fc2, beside.up)


def _tokens(vit: Vit, changes: Tensors) -> None:
    """T tokens enter at one block. Named `tokens` they leave in the last one, named `pooled` they stay for the head."""
    ((index, tensors),) = _by_block(changes).items()
    ((name, tokens_TC),) = tensors.items()
    last = vit.config.depth - 1
    if vit.config.per_frame:
        raise ValueError("no tokens enter or leave where each time step attends to itself alone")
    if name not in ("tokens", "pooled") or (name == "tokens" and index == last) or tokens_TC.dim() != 2:
        raise ValueError(f"module.{index}.{name} of shape {tuple(tokens_TC.shape)}")
    vit.blocks[index] = EnteringBlock(vit.block(index), tokens_TC)
    if name == "tokens":
        vit.blocks[last] = LeavingBlock(vit.block(last), vit.config.tokens)


FORMS: dict[str, Callable[[Vit, Tensors], None]] = {
    "override": _override,
    "low-rank": _low_rank,
    "parallel": _parallel,
    "serial": _serial,
    "temporal": _temporal,
    "tokens": _tokens,
}


def _by_block(changes: Tensors) -> dict[int, dict[str, Tensor]]:
    """`module.<block>.<name>` -> `{block: {name: tensor}}`."""
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, tensor in changes.items():
        kind, block, rest = name.split(".", 2)
        if kind != "module" or not block.isdecimal():
            raise ValueError(name)
        blocks.setdefault(int(block), {})[rest] = tensor
    return blocks


def _parts(tensors: Tensors, known: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """`<part>.<name>` -> `{part: {name: tensor}}`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part not in known:
            raise ValueError(name)
        parts.setdefault(part, {})[rest] = tensor
    return parts


def _bottlenecks(width: int, tensors: Tensors, names: tuple[str, ...], bias: bool = True) -> dict[str, Bottleneck]:
    return {
        name: _loaded(Bottleneck, own, width, len(own["down.weight"]), bias)
        for name, own in _parts(tensors, names).items()
    }


def _loaded(kind: Callable[..., AnyModule], tensors: Tensors, *sizes: int) -> AnyModule:
    """A module of just these tensors; names and shapes must be its own."""
    with torch.device("meta"):
        module = kind(*sizes)
    module.load_state_dict(tensors, assign=True)
    return module
