"""VideoMAE as its authors save it: pre-training, fine-tuning, version 2, and APT, which puts prompts beside it.

Names stand behind a prefix that depends on who saved them (`encoder.`, `backbone.`, `model.` ...).
"""

from __future__ import annotations

from apt_edge.backbone.layouts.base import (
    Converted,
    Hints,
    Prompts,
    Shapes,
    Tensors,
    check_finite,
    check_positions,
    depth_of,
    sizes,
)
from apt_edge.backbone.layouts.blocks import DECODER, LAST_NORM, LONE_NORM, Names, explain, take_head
from apt_edge.backbone.layouts.settings import whole
from apt_edge.errors import BackboneError

NAMES = Names(
    patch="patch_embed.proj",
    blocks="blocks.",
    parts={"norm1": "norm1", "attn.proj": "attn.proj", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    joint=("attn.qkv.weight", "attn.qkv.bias"),
    bias="attn.{}_bias",
)
FIRST = "blocks.0.attn.qkv.weight"
KEYS, VALUES, SCALE = "prompt_embeddings_k", "prompt_embeddings_v", "prompt_scale"


def recognises(shapes: Shapes) -> bool:
    """The joint qkv weight of a block and a patch embedding over time, whatever stands before both."""
    return any(
        name.endswith(FIRST) and len(shapes.get(f"{name.removesuffix(FIRST)}{NAMES.patch}.weight", ())) == 5
        for name in shapes
    )


def convert(tensors: Tensors, hints: Hints) -> Converted:
    """The tensors under our names.

    Raises:
        BackboneError: not a backbone of VideoMAE's kind.
    """
    # The decoder has blocks too, but no patch embedding.
    prefix = next(name for name in tensors if name.endswith(f"{NAMES.patch}.weight")).removesuffix(
        f"{NAMES.patch}.weight"
    )
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    depth = depth_of(shapes, NAMES.blocks)
    hidden = (shapes.get("blocks.0.mlp.fc1.weight") or (0,))[0]
    head_width = _prompt_width(shapes)
    warnings: list[str] = []
    config = sizes(depth, shapes[f"{NAMES.patch}.weight"], hidden, hints, warnings, head_width)
    result = Converted(config, warnings=warnings)
    NAMES.convert(tensors, prefix, result)
    reasons = {
        f"{prefix}norm.": LAST_NORM,
        f"{prefix}head.": "a classifier without a norm behind the mean: it reads the first token",
        "decoder.": DECODER,
        "encoder_to_decoder.": DECODER,
        "mask_token": DECODER,
    }
    for name in ("fc_norm", "head_norm"):  # APT calls it by the other name
        take_head(tensors, result, prefix + name, f"{prefix}head")
        if result.head is None:
            reasons[f"{prefix}{name}."] = LONE_NORM
    if f"{prefix}pos_embed" in tensors:
        name = f"{prefix}pos_embed"
        result.ignored[name] = check_positions(name, tensors[name], config)
    if KEYS in own:
        _prompts(own, prefix, hints, result)
    explain(tensors, result, reasons, prefix + NAMES.blocks)
    return result


def _prompt_width(shapes: Shapes) -> int | None:
    """D of stored prompts; None when there are none.

    Raises:
        BackboneError: prompts whose shapes do not belong together.
    """
    found = {name: shapes[name] for name in (KEYS, VALUES, SCALE) if name in shapes}
    if not found:
        return None
    key, width = found.get(KEYS, ()), shapes[f"{NAMES.patch}.weight"][0]
    fits = len(key) == 3 and all(key) and width % key[2] == 0 and found.get(VALUES) == key
    if not fits or found.get(SCALE, (key[0], 2, key[1])) != (key[0], 2, key[1]):
        raise BackboneError(
            "the prompts of the checkpoint do not belong together",
            found=", ".join(f"{name} {list(shape)}" for name, shape in found.items()),
            fix=f"{KEYS} and {VALUES} must both be [blocks, prompts, head width], {SCALE} [blocks, 2, prompts]: "
            "copy the checkpoint again",
        )
    return key[2]


def _prompts(own: Tensors, prefix: str, hints: Hints, result: Converted) -> None:
    """APT's prompts; which block they begin at is not stored beside them."""
    key, value, scale = own[KEYS], own[VALUES], own.get(SCALE)
    start = whole(hints.args, "prompt_start", least=0)
    if start is None:
        start = 0
        result.notes.append("nothing says at which block the prompts begin (final_args.json): taken to be the first")
    if start + len(key) > result.config.depth:
        raise BackboneError(
            f"prompts for {len(key)} blocks from block {start} on do not fit {result.config.depth} blocks",
            fix="put the final_args.json of this very run beside the checkpoint",
        )
    if scale is None:
        result.notes.append("the prompts have no scales: they were trained without reparametrisation")
    result.apt = Prompts(key, value, scale, start)
    for name in (KEYS, VALUES, SCALE):
        if name in own:
            check_finite(name, own[name])
            result.used[f"prompts.{name}"] = prefix + name
