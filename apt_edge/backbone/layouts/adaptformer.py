"""VideoMAE as the AdaptFormer repository saves it: queries, keys and values apart, a batch norm in the head."""

from __future__ import annotations

import torch

from apt_edge.backbone.layouts.base import (
    Converted,
    ForeignHead,
    Hints,
    Shapes,
    Tensors,
    check_positions,
    depth_of,
    sizes,
)
from apt_edge.backbone.layouts.blocks import LAST_NORM, LONE_NORM, Names, explain, take_head

NAMES = Names(
    patch="patch_embed.proj",
    blocks="blocks.",
    parts={"norm1": "norm1", "attn.proj": "attn.proj", "norm2": "norm2", "fc1": "fc1", "fc2": "fc2"},
    split=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    bias="attn.{}_bias",
)
FIRST = "blocks.0.attn.q_proj.weight"
BATCH_NORM_EPS = 1e-6  # main_video.py:334
TUNED = "what was tuned beside the backbone; a head that was trained with it is left out as well"


def recognises(shapes: Shapes) -> bool:
    """Three projections and a patch embedding over time."""
    return FIRST in shapes and len(shapes.get(f"{NAMES.patch}.weight", ())) == 5


def convert(tensors: Tensors, hints: Hints) -> Converted:
    """The tensors under our names; raises BackboneError when it is not a backbone of VideoMAE's kind."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    warnings: list[str] = []
    depth, hidden = depth_of(shapes, NAMES.blocks), (shapes.get("blocks.0.fc1.weight") or (0,))[0]
    result = Converted(sizes(depth, shapes[f"{NAMES.patch}.weight"], hidden, hints, warnings), warnings=warnings)
    NAMES.convert(tensors, "", result)
    tuned = [name for name in tensors if "adaptmlp" in name.split(".") or name.startswith("embeddings.")]
    result.ignored |= dict.fromkeys(tuned, TUNED)
    if tuned:
        result.notes.append(f"{len(tuned)} tensors of adapters or prompts are left out, and the head with them")
    else:
        _head(tensors, result)
    if "pos_embed" in tensors:
        result.ignored["pos_embed"] = check_positions("pos_embed", tensors["pos_embed"], result.config)
    reasons = {
        "norm.": LAST_NORM,
        "head.": "a head that does not stand alone behind the mean and its norm",
        "fc_norm.": LONE_NORM,
    }
    explain(tensors, result, reasons, NAMES.blocks)
    return result


def _head(tensors: Tensors, result: Converted) -> None:
    """W BN(x) + b = (W / sqrt(v + e)) x + (b - W m / sqrt(v + e)), the batch norm without weights of its own."""
    if "head.weight" in tensors:
        take_head(tensors, result, "fc_norm", "head")
        return
    take_head(tensors, result, "fc_norm", "head.1")
    if result.head is None or "head.0.running_mean" not in tensors or "head.0.weight" in tensors:
        result.head = None
        result.used = {ours: theirs for ours, theirs in result.used.items() if not ours.startswith("head.")}
        return
    mean, variance = tensors["head.0.running_mean"].float(), tensors["head.0.running_var"].float()
    weight = result.head.weight.float() / torch.sqrt(variance + BATCH_NORM_EPS)
    bias = result.head.bias.float() - weight @ mean
    result.head = ForeignHead(result.head.norm_weight, result.head.norm_bias, weight, bias)
    result.used["head.weight"] += " + head.0.running_var"
    result.used["head.bias"] += " + head.0.running_mean"
    result.ignored["head.0.num_batches_tracked"] = "a counter"
