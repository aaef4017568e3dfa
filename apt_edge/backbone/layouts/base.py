"""What a reader of somebody else's checkpoint is told, what it gives back, and what all readers do alike.

Shapes: L blocks, Lp prompted blocks, n prompts, D head width, C width, M hidden width of the MLP, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_edge.backbone.layers import sincos_positions
from apt_edge.backbone.vit import VitConfig
from apt_edge.errors import BackboneError

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

# Heads of the published sizes whose heads are not 64 wide: ViT-H and ViT-g.
HEADS = {1280: 16, 1408: 16}
PUBLISHED = (192, 384, 768, 1024, *HEADS)
FORCE = "python -m train.convert CHECKPOINT --heads N"


@dataclass(frozen=True)
class Hints:
    """What stands beside the tensors, and what the user forces.

    Attributes:
        config: Hugging Face's config.json; empty when there is none.
        args: arguments of the run that wrote the checkpoint (final_args.json, or kept in it); empty when unknown.
        heads, frames, size: forced by the user.
        clip_form: of the two forms of CLIP on video.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    heads: int | None = None
    frames: int | None = None
    size: int | None = None
    clip_form: str | None = None


@dataclass(frozen=True)
class ForeignHead:
    """Norm between mean and classifier, and the classifier: `norm_*` `[C]`, `weight` `[K, C]`, `bias` `[K]`."""

    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Prompts:
    """APT's prompts as stored: `key`, `value` `[Lp, n, D]`, `scale` `[Lp, 2, n]`; row r belongs to block start + r."""

    key: Tensor
    value: Tensor
    scale: Tensor | None
    start: int


@dataclass
class Converted:
    """A foreign checkpoint under our names.

    Attributes:
        config: sizes and epsilons.
        tensors: ours, in the source's precision; what is not reshaped is not copied.
        used: {our name: their name, or names}.
        ignored: {their name: why}.
        missing: their names that a backbone cannot do without; not empty means that it cannot be loaded.
        notes: what was found out or assumed.
        warnings: what the user should not overlook.
        head: norm and classifier, when there are ones that fit the mean over the tokens.
        apt: the prompts of an APT checkpoint.
        labels: class names, when the source has them.
        layout, path, args: which layout it is, the file, and the arguments of the run that wrote it.
    """

    config: VitConfig
    tensors: dict[str, Tensor] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    head: ForeignHead | None = None
    apt: Prompts | None = None
    labels: list[str] | None = None
    layout: str = ""
    path: Path = Path()
    args: Mapping[str, Any] = field(default_factory=dict)

    def take(self, ours: str, theirs: str, tensors: Tensors) -> None:
        """One tensor as it is, or one more that is missing."""
        if theirs in tensors:
            self.tensors[ours], self.used[ours] = tensors[theirs], theirs
        else:
            self.missing.append(theirs)


def depth_of(names: Iterable[str], prefix: str) -> int:
    """Number of blocks named `<prefix><index>.`."""
    indices = (name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix))
    return 1 + max((int(index) for index in indices if index.isdecimal()), default=-1)


def choose_heads(width: int, hints: Hints, warnings: list[str], head_width: int | None = None) -> int:
    """Heads of a backbone, which no weight shows.

    In this order: what the user forces, the width of stored prompts, the published sizes (16 heads for ViT-H and ViT-g,
    64 channels a head for the others), the configuration, 64 channels a head.

    Raises:
        BackboneError: the width does not divide by the heads.
    """
    configured = hints.config.get("num_attention_heads")
    rule = HEADS.get(width, width // 64)
    if head_width is not None:
        heads = width // head_width
        if hints.heads not in (None, heads):
            raise BackboneError(
                f"{hints.heads} heads do not fit the prompts of the checkpoint",
                found=f"prompts of {head_width} numbers, so {heads} heads in {width} channels",
                fix="leave the number of heads to the checkpoint",
            )
    elif hints.heads is not None:
        heads = hints.heads
    elif width in PUBLISHED or not configured:
        heads = rule
        if configured and configured != rule:
            warnings.append(
                f"the configuration says {configured} heads, but weights of width {width} are published with {rule}: "
                f"{rule} heads taken. If this model was really trained with {configured}: "
                f"{FORCE.replace('N', str(configured))}"
            )
    else:
        heads = int(configured)
    if heads < 1 or width % heads:
        raise BackboneError(
            f"{width} channels cannot be shared by {heads} heads",
            found=f"the published size has {rule}" if width in PUBLISHED else "no published size has this width",
            fix=f"name the right number: {FORCE}",
        )
    return heads


def sizes(
    depth: int,
    patch: tuple[int, ...],
    hidden: int,
    hints: Hints,
    warnings: list[str],
    head_width: int | None = None,
    **epsilons: float | None,
) -> VitConfig:
    """Every size from the tensors' shapes; frames and pixels from what is known beside them, else 16 and 224.

    Args:
        depth: L.
        patch: `[C, 3, tubelet, patch, patch]`.
        hidden: M.
        hints: what is known beside the tensors.
        warnings: gets what the user should not overlook.
        head_width: D, where prompts show it.
        epsilons: `eps` and `head_eps` of the configuration.

    Raises:
        BackboneError: no sizes of a video transformer.
    """
    if len(patch) != 5 or patch[1] != 3 or patch[3] != patch[4] or not depth:
        raise BackboneError(
            "these are not the weights of a video transformer",
            found=f"{depth} blocks behind a patch embedding {list(patch)}",
            fix="the patch embedding must be [C, 3, frames, pixels, pixels]",
        )
    width, _, tubelet, side, _ = patch
    frames = hints.frames or hints.config.get("num_frames") or hints.args.get("num_frames") or 16
    size = hints.size or hints.config.get("image_size") or hints.args.get("input_size") or 224
    for name, value, unit in (("frames", frames, tubelet), ("size", size, side)):
        if not isinstance(value, int) or value < 1 or value % unit:
            raise BackboneError(
                f"{name} = {value} does not divide into the backbone's patches of {unit}",
                fix=f"python -m train.convert CHECKPOINT --{name} N, a multiple of {unit}",
            )
    return VitConfig(
        width=width,
        depth=depth,
        heads=choose_heads(width, hints, warnings, head_width),
        frames=frames,
        size=size,
        tubelet=tubelet,
        patch=side,
        mlp_ratio=hidden // width if hidden % width == 0 else hidden / width,
        **epsilons,  # type: ignore[arg-type]
    )


def check_positions(name: str, stored: Tensor, config: VitConfig) -> str:
    """The reason for which a stored position table is not needed; raises BackboneError when it is not the fixed one."""
    tokens = stored.numel() // config.width
    if stored.numel() == tokens * config.width:
        table = sincos_positions(tokens, config.width).flatten()
        tolerance = 1e-5 if stored.dtype == torch.float32 else 1e-2
        if (stored.flatten().float() - table).abs().max() <= tolerance:
            return "the fixed sin-cos table, which is computed"
    raise BackboneError(
        f"{name} is not the fixed sin-cos table of VideoMAE",
        found=f"a table {list(stored.shape)} that was trained, or is laid out otherwise",
        fix="give weights with fixed positions: trained ones are not supported",
    )
