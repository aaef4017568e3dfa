"""What a reader of somebody else's checkpoint is told, what it gives back, and what all readers do alike.

Shapes: L blocks, Lp prompted blocks, n prompts, D head width, C width, M hidden width of the MLP, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_edge.backbone.layers import sincos_positions
from apt_edge.backbone.layouts.settings import side, whole
from apt_edge.backbone.vit import VitConfig
from apt_edge.errors import BackboneError

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

# Heads of the published sizes whose heads are not 64 wide: ViT-H and ViT-g.
HEADS = {1280: 16, 1408: 16}
PUBLISHED = (192, 384, 768, 1024, *HEADS)
FORCE = "python -m train.convert CHECKPOINT --heads"
LARGEST = {"frames": 256, "size": 1024}  # a table of positions is made for them before anything is compared


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


class Joined(Mapping[str, Tensor]):
    """Tensors by our names; what is stored in parts is joined each time it is asked for, so that no copies pile up."""

    def __init__(self, tensors: Tensors | None = None) -> None:
        self._parts: dict[str, tuple[Tensor, ...]] = {name: (tensor,) for name, tensor in (tensors or {}).items()}

    def put(self, name: str, *parts: Tensor) -> None:
        """A tensor, or those that make it when they stand one below the other.

        Raises:
            BackboneError: parts that do not fit each other.
        """
        if len(parts) > 1 and len({(part.dtype, part.shape[1:], part.dim()) for part in parts}) > 1:
            raise BackboneError(
                f"the parts of {name} do not fit each other",
                found=", ".join(f"{list(part.shape)}" for part in parts),
                fix="copy the checkpoint again",
            )
        self._parts[name] = parts

    def __getitem__(self, name: str) -> Tensor:
        parts = self._parts[name]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


@dataclass
class Converted:
    """A foreign checkpoint under our names.

    Attributes:
        config: sizes and epsilons.
        tensors: ours, in the source's precision; nothing is copied before it is asked for.
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
    tensors: Joined = field(default_factory=Joined)
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
            self.tensors.put(ours, tensors[theirs])
            self.used[ours] = theirs
        else:
            self.missing.append(theirs)


def depth_of(names: Iterable[str], prefix: str) -> int:
    """Number of blocks named `<prefix><index>.`; raises BackboneError when one is left out between them."""
    indices = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    indices = {index for index in indices if index.isdecimal()}
    if absent := [index for index in map(str, range(len(indices))) if index not in indices]:
        beyond = min(indices - set(map(str, range(len(indices)))), key=lambda index: (len(index), index))
        raise BackboneError(
            "the blocks are not numbered one after the other from 0 on",
            found=f"{prefix}{beyond[:20]}, but no {prefix}{absent[0]}",
            fix="give the whole checkpoint",
        )
    return len(indices)


def usual_heads(width: int) -> int:
    """Heads of the published sizes: 16 for ViT-H and ViT-g, 64 channels a head for the others."""
    return HEADS.get(width, width // 64)


def choose_heads(width: int, hints: Hints, warnings: list[str], head_width: int | None = None) -> int:
    """Heads of a backbone, which no weight shows.

    In this order: what the user forces, the width of stored prompts, the published sizes, the configuration,
    64 channels a head.

    Raises:
        BackboneError: the width does not divide by the heads.
    """
    configured = whole(hints.config, "num_attention_heads")
    rule = usual_heads(width)
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
    elif width in PUBLISHED or configured is None:
        heads = rule
        if configured not in (None, rule):
            warnings.append(
                f"the configuration says {configured} heads, but weights of width {width} are published with {rule}: "
                f"{rule} heads taken. If this model was really trained with {configured}: {FORCE} {configured}"
            )
    else:
        heads = configured
    if heads < 1 or width % heads:
        raise BackboneError(
            f"{width} channels cannot be shared by {heads} heads",
            found=f"the published size has {rule}" if width in PUBLISHED else "no published size has this width",
            fix=f"name the right number: {FORCE} N",
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
    if len(patch) != 5 or patch[1] != 3 or patch[3] != patch[4] or not depth or not all(patch):
        raise BackboneError(
            "these are not the weights of a video transformer",
            found=f"{depth} blocks behind a patch embedding {list(patch)}",
            fix="the patch embedding must be [C, 3, frames, pixels, pixels]",
        )
    width, _, tubelet, pixels, _ = patch
    frames, size = hints.frames, hints.size
    if frames is None:
        frames = whole(hints.config, "num_frames") or whole(hints.args, "num_frames") or 16
    if size is None:
        size = side(hints.config, "image_size") or whole(hints.args, "input_size") or 224
    for name, value, unit in (("frames", frames, tubelet), ("size", size, pixels)):
        if not 1 <= value <= LARGEST[name] or value % unit:
            raise BackboneError(
                f"{name} = {value} does not divide into the backbone's patches of {unit}, or is above {LARGEST[name]}",
                fix=f"python -m train.convert CHECKPOINT --{name} N, a multiple of {unit}",
            )
    return VitConfig(
        width=width,
        depth=depth,
        heads=choose_heads(width, hints, warnings, head_width),
        frames=frames,
        size=size,
        tubelet=tubelet,
        patch=pixels,
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


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises BackboneError when one of the numbers is none, or infinite, or quantised."""
    if not tensor.is_floating_point():
        raise BackboneError(f"{name} is quantised", found=str(tensor.dtype), fix="give it in float32 or float16")
    if tensor.numel() and not all(math.isfinite(end) for end in torch.aminmax(tensor.detach().float())):
        raise BackboneError(
            f"{name} holds what is not a number, or is infinite",
            found=f"{int((~torch.isfinite(tensor.float())).sum())} of {tensor.numel()}",
            fix="the training diverged, or the file is damaged: give an earlier checkpoint, or copy it again",
        )
