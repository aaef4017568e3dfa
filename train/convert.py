"""Somebody else's checkpoint as a canonical backbone; with a classifier in it, a pack beside it.

python -m train.convert CHECKPOINT [--out FILE] [--half] [--heads N] [--frames N] [--size N] [--clip-form FORM]
                        [--labels FILE] [--json]

OpenAI's CLIP becomes one of two backbones: `--clip-form joint` or `--clip-form per-frame`, which is settled then.
CHECKPOINT is a file, a folder or owner/name on the Hugging Face hub, in one of the layouts of
`apt_edge.backbone.layouts`. Nothing in it is executed.

Memory: a file is mapped and written one tensor after the other. The peak is at most 1.5 times the file, net of the
interpreter and its libraries (0.3 GB); measured on transformers' ViT-B: 1.07 times 345 MB in float32, 1.13 times 172 MB
in float16.

Shapes: Lp prompted blocks, n prompts, D head width.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from apt_edge.backbone.checkpoints import FORMAT, read_checkpoint, tensors_hash, write_backbone
from apt_edge.backbone.layouts.base import Converted, ForeignHead, Prompts
from apt_edge.backbone.layouts.clip import FORMS
from apt_edge.backbone.layouts.settings import text, whole
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, PackError, run_tool
from apt_edge.pack import FORMAT as PACK_FORMAT
from apt_edge.pack import BackboneRef, FoldedKV, PromptPack
from apt_edge.video.labels import read_labels

LARGE = 50_000_000  # numbers of a backbone that takes more than a moment


def convert(
    source: str | Path,
    out: str | Path | None = None,
    *,
    half: bool = False,
    labels: str | Path | None = None,
    **forced: Any,
) -> dict[str, Any]:
    """Write the backbone, and the pack when the checkpoint has a classifier.

    Args:
        source: the checkpoint.
        out: the canonical file; None for one named after the checkpoint, beside it (here, for a name on the hub).
        half: store float16; otherwise 16 bits stay what they are and everything else becomes float32.
        labels: file of class names.
        forced: `heads`, `frames`, `size` and `clip_form` of `read_checkpoint`.

    Returns:
        The report: paths, hash, sizes, and what was used, ignored (with the reason) and assumed.

    Raises:
        BackboneError: the checkpoint cannot be used.
        ConfigError: labels that do not fit, or an `out` that would overwrite something else than what this wrote.
    """
    found = read_checkpoint(source, **forced)
    target = _target(source, found, out)
    beside = target.with_name(f"{target.stem}.pack.safetensors")
    if found.head is not None:
        _refuse_foreign(beside, PACK_FORMAT)
    elif labels:
        raise ConfigError(f"{source} has no classifier whose classes could be named", fix="leave --labels out")
    numbers = sum(tensor.numel() for tensor in found.tensors.values())
    if found.head is None and found.apt is not None:
        found.notes.append("the prompts are left out: there is no classifier that they were trained with")
    with tqdm(
        total=2 * numbers, desc="convert", unit="", unit_scale=True, disable=None if numbers > LARGE else True
    ) as bar:
        sha256 = tensors_hash(found.config, found.tensors, half, bar.update)
        pack = None if found.head is None else _pack(found, found.head, target, sha256, labels)
        header = {"sha256": sha256, "source": str(source), "layout": found.layout}
        write_backbone(target, found.config, found.tensors, half, header, bar.update)
    _remove_stale(beside, sha256, found.notes)
    if pack is not None:
        pack.save(beside)
    return {
        "source": str(source),
        "layout": found.layout,
        "backbone": str(target),
        "sha256": sha256,
        "config": asdict(found.config),
        "pack": None if pack is None else str(beside),
        "method": None if pack is None else pack.method,
        "labels": None if pack is None else len(pack.labels),
        "clip": None if pack is None else pack.clip.to_dict(),
        "used": found.used,
        "ignored": found.ignored,
        "notes": found.notes,
        "warnings": found.warnings,
    }


def _target(source: str | Path, found: Converted, out: str | Path | None) -> Path:
    """Where the canonical file goes."""
    given = Path(source)
    name = given.stem if given.is_file() else given.name  # folders and names on the hub may have points in them
    target = Path(out) if out else (given.parent if given.exists() else Path()) / f"{name}.safetensors"
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target} does not end in .safetensors", fix="name the file so")
    if target.exists() and target.samefile(found.path):
        raise ConfigError(f"{target} is the checkpoint itself", fix="name another file: --out FILE.safetensors")
    _refuse_foreign(target, FORMAT)
    return target


def _refuse_foreign(target: Path, kind: str) -> None:
    """Nothing is overwritten but what this tool may have written."""
    if target.exists() and (found := _format_of(target)) != kind:
        raise ConfigError(
            f"{target} is there already, and is something else than what would be written",
            found=found or "a file of others",
            fix="name another file: --out FILE.safetensors",
        )


def _remove_stale(pack: Path, sha256: str, notes: list[str]) -> None:
    """Take away the pack of a backbone that has been replaced; stopped before this, it is refused by its hash."""
    if _format_of(pack) != PACK_FORMAT:
        return
    try:
        stale = PromptPack.load(pack).backbone.sha256 != sha256
    except PackError:
        stale = True
    if stale:
        pack.unlink()
        notes.append(f"{pack} was removed: it belonged to the backbone that was here before")


def _format_of(path: Path) -> str:
    """What a file of this project calls itself; empty for every other one."""
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        return ""


def _pack(found: Converted, head: ForeignHead, target: Path, sha256: str, labels: str | Path | None) -> PromptPack:
    """The head, and APT's prompts with their scales multiplied in."""
    names = _labels(found, len(head.weight), labels)
    settings: dict[str, Any] = {}
    kv: dict[int, FoldedKV] = {}
    trained: list[Tensor | None] = [head.norm_weight, head.norm_bias, head.weight, head.bias]
    if found.apt is not None:
        prompts = found.apt
        trained += [prompts.key, prompts.value, prompts.scale]
        kv = _folded(prompts)
        settings = {
            "tokens": prompts.key.shape[1],
            "start": prompts.start,
            "end": max(kv),
            "reparam": "none" if prompts.scale is None else "max1",
        }
    return PromptPack(
        kv=kv,
        head={
            "norm.weight": _array(head.norm_weight),
            "norm.bias": _array(head.norm_bias),
            "weight": _array(head.weight),
            "bias": _array(head.bias),
        },
        method="linear" if found.apt is None else "apt",
        settings=settings,
        clip=_clip(found, names),
        labels=tuple(names),
        backbone=BackboneRef(str(target), sha256),
        trainable_parameters=sum(tensor.numel() for tensor in trained if tensor is not None),
        training={"converted_from": str(found.path), "layout": found.layout},
    )


def _folded(prompts: Prompts) -> dict[int, FoldedKV]:
    """p * max(s, 1) of each prompt, float32 `[1, n, D]` for each prompted block."""
    stacked = torch.stack([prompts.key, prompts.value], dim=1).float()  # [Lp, 2, n, D]
    if prompts.scale is not None:
        stacked = stacked * prompts.scale.float().clamp(min=1)[..., None]
    return {
        prompts.start + row: FoldedKV(_array(key[None]), _array(value[None]))
        for row, (key, value) in enumerate(stacked)
    }


def _labels(found: Converted, classes: int, path: str | Path | None) -> list[str]:
    """Class names: of the file given, of the checkpoint, or numbers."""
    names = read_labels(path) if path else found.labels
    if names is None:
        found.notes.append(f"nothing names the {classes} classes: they are called 0 to {classes - 1} (--labels FILE)")
        return [str(index) for index in range(classes)]
    if len(names) != classes:
        raise ConfigError(
            f"{path} does not name the classes of this checkpoint",
            found=f"{len(names)} names for {classes} classes",
            fix="give the list of the data set that it was trained on",
        )
    return names


def _clip(found: Converted, labels: Sequence[str]) -> ClipSpec:
    """How the classifier was shown its videos: as the run's arguments say, else every fourth frame.

    Something-Something is sampled in segments; its class names give it away.
    """
    frames, size = found.config.frames, found.config.size
    data = (text(found.args, "data_set") or "").upper()
    if data == "SSV2" or (not data and sum("something" in name.lower() for name in labels) > len(labels) / 2):
        found.notes.append(f"clips: {frames} frames, one of each of {frames} parts, as for Something-Something v2")
        return ClipSpec(frames=frames, size=size, sampling="segments")
    stride = whole(found.args, "sampling_rate")
    found.notes.append(
        f"clips: {frames} frames, {'every' if stride else 'assumed to be every'} {stride or 4}th of the video"
    )
    return ClipSpec(frames=frames, size=size, stride=stride or 4)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def describe(report: dict[str, Any]) -> str:
    """The report in short."""
    config = report["config"]
    lines = [
        f"layout    {report['layout']}",
        f"backbone  {config['depth']} blocks of {config['width']}, {config['heads']} heads, "
        f"{config['frames']} frames of {config['size']} pixels, eps {config['eps']:g}"
        + (f" (head {config['head_eps']:g})" if config["head_eps"] is not None else ""),
        f"used      {len(report['used'])} tensors",
        *(f"ignored   {count} x {reason}" for reason, count in Counter(report["ignored"].values()).items()),
        *(f"note      {note}" for note in report["notes"]),
        f"written   {report['backbone']} ({Path(report['backbone']).stat().st_size / 1e6:.1f} MB, "
        f"sha256 {report['sha256'][:12]})",
    ]
    if report["pack"]:
        lines.append(f"written   {report['pack']} ({report['method']}, {report['labels']} classes)")
    return "\n".join(lines)


def main() -> None:
    """Parse, convert, print."""
    parser = argparse.ArgumentParser(prog="train.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="file, folder, or owner/name on the Hugging Face hub")
    parser.add_argument("--out", help="canonical file; default: named after the checkpoint, beside it")
    parser.add_argument("--half", action="store_true", help="store float16")
    parser.add_argument("--heads", type=int, help="attention heads, where the checkpoint does not decide them")
    parser.add_argument("--frames", type=int, help="frames of a clip")
    parser.add_argument("--size", type=int, help="pixels of a side")
    parser.add_argument(
        "--clip-form", choices=FORMS, help="how OpenAI's CLIP reads a video: joint (default), or per-frame"
    )
    parser.add_argument("--labels", help="file of class names, for the pack")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    arguments = parser.parse_args()
    report = convert(
        arguments.checkpoint,
        arguments.out,
        half=arguments.half,
        labels=arguments.labels,
        heads=arguments.heads,
        frames=arguments.frames,
        size=arguments.size,
        clip_form=arguments.clip_form,
    )
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(report, indent=2) if arguments.json else describe(report))


if __name__ == "__main__":
    run_tool(main, "train.convert")
