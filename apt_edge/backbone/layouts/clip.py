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
from apt_edge.backbone.vit import VitConfig
from apt_edge.errors import BackboneError

FORMS = {"joint": (16, 2), "per-frame": (8, 1)}  # frames and tubelet
EPS = 1e-5
BLOCKS = "transformer.resblocks."
NAMES = {"norm1": "ln_1", "norm2": "ln_2", "attn.proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
NEEDED = ("conv1.weight", "class_embedding", "positional_embedding", f"{BLOCKS}0.attn.in_proj_weight")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
UNUSED = {
    "ln_post.weight": "the norm between mean and classifier is trained anew",
    "ln_post.bias": "the norm between mean and classifier is trained anew",
    "proj": "the projection into the space that images and texts share",
    "class_embedding": "the joint form has no class token",
}


def recognises(shapes: Shapes) -> bool:
    """An image encoder by itself, or beside its text encoder."""
    return _prefix(shapes) is not None


def _prefix(shapes: Shapes) -> str | None:
    return next((p for p in ("visual.", "") if all(p + name in shapes for name in NEEDED)), None)


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
    for index in range(found.config.depth):
        _block(found, own, index)
    _leave_out(found, own, prefix)
    found.ignored |= {name: "the text encoder" for name in tensors if not name.startswith(prefix)}
    found.used = {ours: " + ".join(prefix + part for part in names.split(" + ")) for ours, names in found.used.items()}
    found.missing = [prefix + name for name in found.missing]
    found.notes += [
        f"the {form} form of CLIP on video is apt-edge's own definition: others' figures are of other models",
        "the activation is that of OpenAI's own weights, x sigmoid(1.702 x); the file does not say it",
        f"CLIP was trained on other colours than VideoMAE: set clip.mean = {list(MEAN)} and clip.std = {list(STD)}",
    ]
    return found


def _leave_out(found: Converted, own: Tensors, prefix: str) -> None:
    used = {part for names in found.used.values() for part in names.split(" + ")}
    for name in own:
        if name in used:
            continue
        if name.startswith(BLOCKS) and name.split(".")[2].isdecimal():
            raise BackboneError(
                "this backbone computes something else than CLIP's image encoder",
                found=f"{prefix}{name}",
                fix="give OpenAI's own weights, without adapters",
            )
        found.ignored[prefix + name] = UNUSED.get(name, "no part of the image encoder")


def _config(own: Tensors, form: str, hints: Hints, warnings: list[str]) -> VitConfig:
    width, colours, *patch = own["conv1.weight"].shape
    frames, tubelet = FORMS[form]
    hidden = own[f"{BLOCKS}0.mlp.c_fc.weight"].shape[0] if f"{BLOCKS}0.mlp.c_fc.weight" in own else 4 * width
    side = round((len(own["positional_embedding"]) - 1) ** 0.5)
    known = replace(hints, frames=hints.frames or frames, size=hints.size or side * patch[0])
    depth = depth_of({name: tuple(tensor.shape) for name, tensor in own.items()}, BLOCKS)
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
    found.tensors["patch.weight"] = patch.repeat(1, 1, config.tubelet, 1, 1)
    found.tensors["patch.bias"] = torch.zeros(config.width)
    found.used["patch.weight"], found.used["positions"] = "conv1.weight", "positional_embedding"
    if config.per_frame:
        positions = torch.cat([positions[:1] + own["class_embedding"].float(), positions[1:]])
        found.used["positions"] += " + class_embedding"
    else:
        positions = positions[1:]
    found.tensors["positions"] = positions.repeat(config.grid[0], 1)[None]
    for kind in ("weight", "bias"):
        found.take(f"norm_pre.{kind}", f"ln_pre.{kind}", own)


def _block(found: Converted, own: Tensors, index: int) -> None:
    base = f"{BLOCKS}{index}"
    for ours, theirs in NAMES.items():
        for kind in ("weight", "bias"):
            found.take(f"blocks.{index}.{ours}.{kind}", f"{base}.{theirs}.{kind}", own)
    found.take(f"blocks.{index}.attn.qkv.weight", f"{base}.attn.in_proj_weight", own)
    joint = f"{base}.attn.in_proj_bias"
    if joint not in own:
        found.missing.append(joint)
        return
    for part, bias in zip("qkv", own[joint].chunk(3), strict=True):
        name = f"blocks.{index}.attn.{part}_bias"
        found.tensors[name], found.used[name] = bias.clone(), joint  # files want no tensors that share memory
