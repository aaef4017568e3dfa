"""OpenAI's CLIP: its image encoder made a video transformer, in two forms that are our own definitions.

* joint: the patch filter over `tubelet` frames, each with 1/tubelet of the weights; the patches' positions are the same
  in every time slot; no class token; the head averages all tokens.
* per-frame: the image encoder on each frame, class token included; the head averages the class tokens over time.

Shapes: n patches of a frame, C width.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from apt_edge.backbone.layouts.base import Converted, Hints, Shapes, Tensors, depth_of, sizes
from apt_edge.backbone.layouts.blocks import Names, explain
from apt_edge.backbone.vit import VitConfig
from apt_edge.errors import BackboneError

FORMS = {"joint": (16, 2), "per-frame": (8, 1)}  # frames and tubelet
EPS = 1e-5
NAMES = Names(
    patch="conv1",
    blocks="transformer.resblocks.",
    parts={"norm1": "ln_1", "norm2": "ln_2", "attn.proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"},
    joint=("attn.in_proj_weight", "attn.in_proj_bias"),
)
NEEDED = ("conv1.weight", "class_embedding", "positional_embedding", f"{NAMES.blocks}0.attn.in_proj_weight")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
UNUSED = {
    "ln_post.": "the norm between mean and classifier is trained anew",
    "proj": "the projection into the space that images and texts share",
    "class_embedding": "the joint form has no class token",
}


def recognises(shapes: Shapes) -> bool:
    """An image encoder by itself, or beside its text encoder."""
    return _prefix(shapes) is not None


def _prefix(shapes: Shapes) -> str | None:
    for prefix in ("visual.", ""):
        filters, token, positions, _ = (shapes.get(prefix + name) for name in NEEDED)
        if filters and token and positions and len(filters) == 4 and positions[1:] == token == filters[:1]:
            return prefix
    return None


def convert(tensors: Tensors, hints: Hints) -> Converted:
    """The tensors under our names, in the form `hints.clip_form`, joint when it is not said.

    Raises:
        BackboneError: no such form, sizes that do not fit the stored positions, or blocks that are more than CLIP's.
    """
    prefix = _prefix({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    assert prefix is not None
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    warnings: list[str] = []
    form = hints.clip_form or "joint"
    if form not in FORMS:
        raise BackboneError(f"CLIP has no form {form!r} on video", fix=f"choose one of {', '.join(FORMS)}")
    found = Converted(_config(own, form, hints, warnings), warnings=warnings)
    _embedding(found, own)
    found.used = {ours: " + ".join(prefix + part for part in names.split(" + ")) for ours, names in found.used.items()}
    found.missing = [prefix + name for name in found.missing]
    NAMES.convert_blocks(tensors, prefix, found)
    found.ignored |= {name: "the text encoder" for name in tensors if not name.startswith(prefix)}
    explain(tensors, found, {prefix + name: why for name, why in UNUSED.items()}, prefix + NAMES.blocks)
    found.notes.append("the activation is that of OpenAI's own weights, x sigmoid(1.702 x); the file does not say it")
    found.warnings += [
        f"the {form} form of CLIP on video is apt-edge's own definition: others' figures are of other models "
        f"(python -m train.convert CHECKPOINT --clip-form {' or '.join(FORMS)})",
        "CLIP was trained on other colours than VideoMAE: "
        f"set clip.mean = {list(CLIP_MEAN)} and clip.std = {list(CLIP_STD)}",
    ]
    return found


def _config(own: Tensors, form: str, hints: Hints, warnings: list[str]) -> VitConfig:
    width, colours, *patch = own["conv1.weight"].shape
    frames, tubelet = FORMS[form]
    inner = f"{NAMES.blocks}0.mlp.c_fc.weight"
    hidden = len(own[inner]) if inner in own else 4 * width
    side = round((len(own["positional_embedding"]) - 1) ** 0.5)
    known = replace(
        hints,
        frames=frames if hints.frames is None else hints.frames,
        size=side * patch[0] if hints.size is None else hints.size,
    )
    depth = depth_of(own, NAMES.blocks)
    config = sizes(depth, (width, colours, tubelet, *patch), hidden, known, warnings, eps=EPS)
    _, height, across = config.grid
    if len(own["positional_embedding"]) != height * across + 1:
        raise BackboneError(
            f"CLIP's positions do not fit frames of {config.size} pixels",
            found=f"{len(own['positional_embedding']) - 1} positions for {height} x {across} patches",
            fix=f"take frames of {side * patch[0]} pixels: leave --size out",
        )
    return replace(config, family="clip", per_frame=form == "per-frame")


def _embedding(found: Converted, own: Tensors) -> None:
    """Patches, positions and the norm behind them; what is computed is float32."""
    config, positions = found.config, own["positional_embedding"].float()
    patch = own["conv1.weight"].float()[:, :, None] / config.tubelet
    found.tensors.put("patch.weight", patch.repeat(1, 1, config.tubelet, 1, 1))
    found.tensors.put("patch.bias", torch.zeros(config.width))
    found.used["patch.weight"], found.used["positions"] = "conv1.weight", "positional_embedding"
    if config.per_frame:
        positions = torch.cat([positions[:1] + own["class_embedding"].float(), positions[1:]])
        found.used["positions"] += " + class_embedding"
    else:
        positions = positions[1:]
    found.tensors.put("positions", positions.repeat(config.grid[0], 1)[None])
    for kind in ("weight", "bias"):
        found.take(f"norm_pre.{kind}", f"ln_pre.{kind}", own)
