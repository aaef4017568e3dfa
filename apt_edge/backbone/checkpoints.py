"""Backbone weights on disk: canonical safetensors with the sizes in the header, and the hash that packs refer to.

Checkpoints in other people's layouts are read too (`layouts`); `python -m train.convert` makes canonical ones of them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor

from apt_edge.backbone.checks import check_config, check_fits, check_stored
from apt_edge.backbone.layouts import LAYOUTS, find_layout
from apt_edge.backbone.layouts.base import Converted, Hints, Joined, check_finite, usual_heads
from apt_edge.backbone.sources import Stored, locate, read
from apt_edge.backbone.vit import SIZES, Vit, VitConfig, size_by_name
from apt_edge.errors import AptEdgeError, BackboneError
from apt_edge.files import atomic

EMBEDDED = Path(__file__).parent / "weights"
FORMAT = "apt-edge backbone 1"
UNSEEN = {
    field.name: field.default for field in fields(VitConfig) if field.name in ("eps", "head_eps", "family", "per_frame")
}
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # safetensors' names
Advance = Callable[[int], object]
_said: set[str] = set()


def backbone_hash(vit: Vit) -> str:
    """`tensors_hash` of a backbone."""
    return tensors_hash(vit.config, vit.state_dict())


def tensors_hash(config: VitConfig, tensors: Mapping[str, Tensor], half: bool = False, advance: Advance = int) -> str:
    """sha256 over names, shapes and float32 bytes of every tensor, in the order of their names.

    What no tensor shows (`UNSEEN`, the number of heads) counts where it is not VideoMAE's own: the same weights with
    other epsilons are another backbone.

    Args:
        config: of the backbone.
        tensors: its weights.
        half: as `write_backbone` stores them when `half`.
        advance: told the numbers of each tensor when it is done.

    Raises:
        BackboneError: a number that is none, or infinite, or that float16 cannot hold.
    """
    digest = hashlib.sha256()
    usual = UNSEEN | {"heads": usual_heads(config.width)}
    own = {name: getattr(config, name) for name in usual}
    digest.update("".join(f"{name}={value}" for name, value in own.items() if value != usual[name]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        check_finite(name, tensor)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(_stored(tensor, half).float()))
        advance(tensor.numel())
    return digest.hexdigest()


def save_backbone(path: str | Path, vit: Vit, half: bool = False, notes: dict[str, str] | None = None) -> None:
    """Write the canonical safetensors file, in float16 when `half`; `notes` go into the header as they are."""
    write_backbone(path, vit.config, vit.state_dict(), half, notes)


def write_backbone(
    path: str | Path,
    config: VitConfig,
    tensors: Mapping[str, Tensor],
    half: bool = False,
    notes: Mapping[str, str] | None = None,
    advance: Advance = int,
) -> None:
    """Write the canonical safetensors file, one tensor after the other: no second copy of all stands in memory.

    Args:
        path: whole or absent when this returns.
        config: goes into the header.
        tensors: our names; types of 16 bits stay as they are, all others become float32.
        half: all become float16.
        notes: go into the header as they are.
        advance: told the numbers of each tensor when it is written.

    Raises:
        BackboneError: a number that float16 cannot hold.
    """
    types = {name: torch.float16 if half else _type(tensor) for name, tensor in tensors.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    # Wide types first, as safetensors' own writer does: every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-types[name].itemsize, name))
    header: dict[str, object] = {
        "__metadata__": {"format": FORMAT, "config": json.dumps(asdict(config)), **(notes or {})}
    }
    end = 0
    for name in names:
        start, end = end, end + shapes[name].numel() * types[name].itemsize
        header[name] = {"dtype": TYPES[types[name]], "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes(_stored(tensors[name], half)))
            advance(shapes[name].numel())


def _type(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype in TYPES else torch.float32


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """A tensor as it is written."""
    made = tensor.detach().cpu().to(torch.float16 if half else _type(tensor))
    if half and tensor.dtype != torch.float16 and made.isinf().any():
        raise BackboneError(
            "a weight is too large for float16", found=f"{tensor.abs().max():.3g}", fix="leave --half out"
        )
    return made


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, without a copy where it is contiguous."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def load_backbone(source: str | Path) -> Vit:
    """Load weights as a frozen float32 `Vit` in eval mode.

    Args:
        source: a canonical `.safetensors` file, a checkpoint in one of the `LAYOUTS` (file, folder, or owner/name on
            the Hugging Face hub), the name of an embedded backbone (`nano`), or `random:<size>` for random weights from
            seed 0 (benchmarks and tests). What a user should know of a foreign checkpoint is said on stderr, once.

    Raises:
        BackboneError: the weights are missing, damaged or not a backbone's, or reading them would execute code.
    """
    text = str(source)
    if text.startswith("random:"):
        return random_backbone(text.removeprefix("random:"))
    converted = read_checkpoint(source)
    for warning in converted.warnings:
        _say_once(f"{source}: {warning}")
    for name, tensor in converted.tensors.items():
        check_finite(name, tensor)
    with torch.device("meta"):  # drawing random weights first would take longer than everything else
        vit = Vit(converted.config)
    vit.load_state_dict({name: _float32(tensor) for name, tensor in converted.tensors.items()}, assign=True)
    return freeze(vit)


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(f"warning: {line}", file=sys.stderr)


def _float32(tensor: Tensor) -> Tensor:
    """A copy, so that nothing hangs on the file any more."""
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def read_checkpoint(
    source: str | Path,
    *,
    heads: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    clip_form: str | None = None,
) -> Converted:
    """Everything that a checkpoint holds, under our names, in its own precision, mapped from the file where possible.

    Args:
        source: as `load_backbone` takes it, random weights apart.
        heads, frames, size: forced, where the checkpoint does not decide them.
        clip_form: `joint` or `per-frame`, for CLIP.

    Raises:
        BackboneError: as `load_backbone`; parts that are missing are named.
    """
    embedded = EMBEDDED / f"{source}.safetensors"
    stored = read(embedded if str(source) in SIZES and embedded.is_file() else locate(source))
    check_stored(stored)
    if stored.header.get("format") == FORMAT:
        converted = _canonical(stored, {"heads": heads, "frames": frames, "size": size, "clip_form": clip_form})
    else:
        layout = find_layout({name: tuple(tensor.shape) for name, tensor in stored.tensors.items()}, str(source))
        hints = Hints(stored.config, stored.args, heads, frames, size, clip_form)
        try:
            converted = LAYOUTS[layout].convert(stored.tensors, hints)
        except AptEdgeError as error:
            raise BackboneError(f"{source}: {error.wrong}", found=error.found, fix=error.fix) from None
        if clip_form is not None and layout != "clip":
            raise BackboneError(
                f"{source} is no CLIP, whose form could be chosen",
                found=f"layout {layout}",
                fix="leave --clip-form out",
            )
        converted.layout = layout
        converted.ignored |= dict.fromkeys(stored.beside, "stands beside the weights")
    converted.path, converted.args = stored.path, stored.args
    check_fits(converted, str(source))
    return converted


def _canonical(stored: Stored, forced: Mapping[str, object]) -> Converted:
    """Our own file; nothing about it can be forced."""
    if given := ", ".join(name for name, value in forced.items() if value is not None):
        raise BackboneError(
            f"{stored.path} is a canonical backbone, whose sizes are settled", found=given, fix="convert its source"
        )
    try:
        config = VitConfig(**json.loads(stored.header["config"]))
        check_config(config, stored.tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise BackboneError(
            f"{stored.path} holds no backbone configuration that is known",
            found=str(error),
            fix="convert its source again",
        ) from None
    return Converted(config, Joined(stored.tensors), {name: name for name in stored.tensors}, layout="apt-edge")


def random_backbone(size: str, seed: int = 0) -> Vit:
    """A frozen backbone with random weights; the global random state is left as it was."""
    config = size_by_name(size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return freeze(Vit(config))


def freeze(vit: Vit) -> Vit:
    """Switch off every gradient and set eval mode."""
    return vit.requires_grad_(False).eval()
