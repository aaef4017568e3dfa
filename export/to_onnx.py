"""Pack -> ONNX: `python -m export.to_onnx PACK --target TARGET.toml [TARGET.toml ...] --clips LIST`.

Writes the graph of each target with its prompts as named constants (or inputs), and proves it against PyTorch on real
clips and, where the target has a compile gate, with a compiler before anything is put in place.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that need packages of the extra
    from apt_edge.errors import name_missing_packages

    name_missing_packages("export.to_onnx")

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import sha256
from apt_edge.pack import PromptPack
from apt_edge.video.lists import FORMATS, Item, match_labels, read_list
from apt_edge.video.load import load_frames
from export.graph.quantise import describe
from export.model import Export
from export.target import Target, load_target


def export_pack(
    pack_path: Path,
    backbone: str | None,
    targets: Iterable[Target],
    clips_list: Path,
    count: int,
    out: Path,
    **reading: Any,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Export a pack file with its backbone for each target into `out`/<target>; yields directory and sidecar.

    Pack, backbone and clips are read once, whatever the number of targets; see `export.model`.

    Args:
        pack_path: the pack.
        backbone: weights, when they are not where the pack's backbone name says.
        targets: pages.
        clips_list: list or data set of videos.
        count: how many of them to run at most.
        out: directory that gets one directory a target.
        reading: `format`, `split` and `root` of the list, as `read_list` takes them; None for those of the pack's run.

    Raises:
        ConfigError: `out` cannot be a directory, or the clips are of classes that the pack does not have.
    """
    targets = list(targets)
    for target in targets:
        _check_place(out / target.name)
    pack = PromptPack.load(pack_path)
    items = _items(clips_list, count, pack, reading)
    name = backbone or pack.backbone.name
    model = folded_model(pack, load_backbone(name), name, pack_path)
    facts = {
        "method": pack.method,
        "trainable_parameters": pack.trainable_parameters,
        "pack_sha256": sha256(pack_path),
        "backbone": {"name": pack.backbone.name, "sha256": pack.backbone.sha256},
        "prompt_tokens": {str(block): tokens for block, tokens in pack.tokens.items()},
        "form": pack.form,
    }
    labels = [item.label for item in items]
    export = Export(
        model,
        frames=_frames(items, pack.clip),
        clip=pack.clip,
        labels=pack.labels,
        facts=facts,
        classes=None if None in labels else np.array(labels),
    )
    for target in targets:
        print(f"exporting {pack_path} for {target.name}", file=sys.stderr)
        directory = out / target.name
        yield directory, export.to(target, directory)


def _check_place(directory: Path) -> None:
    """Raises ConfigError when a file stands where the directory, or one above it, would be."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{there} is a file", fix="give a directory with --out")


def _items(path: Path, count: int, pack: PromptPack, reading: Mapping[str, Any]) -> list[Item]:
    """Up to `count` videos spread evenly over a list, with the pack's class numbers.

    Raises:
        ConfigError: the list has classes that the pack does not have.
    """
    of_run = {"format": pack.training.get("format"), "split": pack.training.get("split", 1)}
    asked = {name: value for name, value in reading.items() if value is not None}
    videos = match_labels(read_list(path, **{**of_run, **asked}), pack.labels)
    for note in videos.notes:
        print(f"export.to_onnx: {note}", file=sys.stderr)
    return _spread(videos.items, count)


def _frames(items: Iterable[Item], spec: ClipSpec) -> np.ndarray:
    return np.stack([load_frames(item, spec) for item in items])


def clips_of(path: Path, spec: ClipSpec, count: int) -> np.ndarray:
    """Up to `count` clips spread evenly over a list, as a model sees them: uint8 `[M, T, S, S, 3]`."""
    return _frames(chosen(path, count), spec)


def chosen(path: Path, count: int) -> list[Item]:
    """Up to `count` videos spread evenly over a list."""
    return _spread(read_list(path).items, count)


def _spread(items: list[Item], count: int) -> list[Item]:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of clips: give 1 or more")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.to_onnx", description="Export a pack to ONNX and prove parity.")
    parser.add_argument("pack", type=Path, help="pack.safetensors of a training run")
    parser.add_argument("--target", type=Path, required=True, nargs="+", help="one or more export/targets/*.toml")
    parser.add_argument("--clips", type=Path, required=True, help="list or data set of videos for the parity gate")
    parser.add_argument("--count", type=_count, default=32, help="how many of them to run (default 32)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a target's setting, as prompts.mode=bound",
    )
    parser.add_argument("--format", choices=FORMATS, help="of the list; default: that of the pack's run, or found out")
    parser.add_argument(
        "--split", type=int, choices=[1, 2, 3], help="of UCF101 and HMDB51; default: that of the pack's run"
    )
    parser.add_argument("--root", help="folder that relative paths start at, default: found out")
    parser.add_argument("--int8", action="store_true", help="linear layers in int8; short for --set int8=true")
    parser.add_argument(
        "--split-at",
        type=int,
        nargs="+",
        metavar="K",
        help="write the graph's parts beside it too, cut in front of these blocks, 0 for behind the patch embedding: "
        "tasks that leave the first K blocks alone share them; short for --set split_at=[K,...]",
    )
    parser.add_argument("--backbone", help="weights, when they are not where the pack's backbone name says")
    parser.add_argument(
        "--out", type=Path, help="directory that gets one directory a target (default: export beside PACK)"
    )
    parser.add_argument("--json", action="store_true", help="print the sidecars as JSON lines")
    args = parser.parse_args()
    changes = [*args.set, *(["int8=true"] if args.int8 else [])]
    changes += [f"split_at={args.split_at}"] if args.split_at else []
    targets = [load_target(path, changes) for path in args.target]
    out = args.out or args.pack.parent / "export"
    reading = {"format": args.format, "split": args.split, "root": args.root}
    for directory, sidecar in export_pack(args.pack, args.backbone, targets, args.clips, args.count, out, **reading):
        print(json.dumps(sidecar) if args.json else _summary(directory, sidecar))


def _summary(out: Path, sidecar: dict[str, Any]) -> str:
    parity, compiled = sidecar["parity"], sidecar["gate"]
    kind = "prompt constants" if sidecar["prompt_mode"] == "folded" else "prompt inputs"
    lines = [
        f"{out}: {sidecar['numerics']['chosen']}, opset {sidecar['opset']}, {len(sidecar['prompts'])} {kind}",
        f"  parity over {parity['clips']} clips: max |dlogit| {parity['max_abs']:.2e}, "
        f"divergence {parity['kl']:.1e} nats, first label equal on {parity['top1_agreement']:.1%}",
    ]
    if sidecar["parts"]:
        apart = f"up to {sidecar['parts_max_abs']:.1e} apart" if sidecar["parts_max_abs"] else "to the last bit"
        own = "; blocks in front of the first cut have prompts, no other task can share them"
        own = own if sidecar["trunk_prompts"] else ""
        lines.append(f"  {len(sidecar['parts'])} parts give the logits of the whole, {apart}{own}")
    if sidecar["int8"]:
        lines.append(f"  {describe(sidecar['int8'])}")
    if compiled:
        lines.append(
            f"  compiles with {compiled['compiler']}: {compiled['fused_attention']} of {compiled['attention']} "
            f"attentions fused, activations {compiled['activation_bytes'] / 1e6:.1f} MB (no GPU executed)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_tool(main, "export.to_onnx")
