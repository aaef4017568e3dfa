"""Pack -> ONNX: `python -m export.to_onnx PACK --target TARGET.toml [TARGET.toml ...] --clips LIST`.

Traces the folded model, binds the prompts as named constants, and proves the graph against PyTorch on real clips before
anything is put in place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import atomic_directory, sha256, write_json
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import GOLDEN, ONNX, SIDECAR
from apt_edge.video.lists import read_list
from apt_edge.video.load import load_clip
from export.proof.parity import check_prompts, compare, gate, torch_logits
from export.target import Target, load_target
from export.graph.trace import TypedModel, bind, trace


def export_model(
    model: nn.Module,
    out: str | Path,
    target: Target,
    *,
    clips: np.ndarray,
    clip: ClipSpec,
    labels: tuple[str, ...],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Export one model into a directory and prove it.

    Args:
        model: `FoldedModel`, or another module `clip -> logits` in float32 (an unfolded form, for comparisons).
        out: directory to write; replaced as a whole when everything has passed.
        target: precision, opset and tolerance.
        clips: real clips `[M, 3, T, H, W]` float32 for the parity gate.
        clip: the input contract.
        labels: class names.
        facts: more entries for the sidecar.

    Returns:
        The sidecar.

    Raises:
        GateError: the graph does not give PyTorch's logits.
    """
    half = target.precision == "float16"
    typed = TypedModel(model, half, target.prompt_heads == "expanded") if isinstance(model, FoldedModel) else None
    if half and typed is None:
        raise ConfigError("only folded models are exported in float16", fix="choose a float32 target")
    prompts = typed.prompts if typed else {}
    constants = {name: tensor.numpy() for name, tensor in prompts.items()}
    graph = bind(trace(typed or model, torch.from_numpy(clips[:1]), prompts, target.opset), constants)
    graph.metadata_props.update({"apt_edge.clip": clip.to_json(), "apt_edge.labels": json.dumps(labels)})
    with atomic_directory(out) as directory:
        path = directory / ONNX
        ir.save(graph, path)
        onnx.checker.check_model(str(path), full_check=True)
        check_prompts(path, constants)
        reference = torch_logits(model, clips)
        parity = compare(path, reference, clips)
        gate(parity, target.tolerance)
        np.savez(directory / GOLDEN, clips=clips[:2], logits=reference[:2])
        sidecar = {
            "target": target.model_dump(),
            "precision": target.precision,
            "opset": target.opset,
            "clip": clip.to_dict(),
            "labels": list(labels),
            "attention": sum(node.op_type == "Softmax" for node in graph.graph),
            "prompts": list(prompts),
            "onnx_sha256": sha256(path),
            "parity": parity,
            **facts,
        }
        write_json(directory / SIDECAR, sidecar)
    return sidecar


def export_pack(
    pack_path: Path, backbone: str | None, targets: Iterable[Target], clips_list: Path, count: int, out: Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Export a pack file with its backbone for each target into `out`/<target>; yields directory and sidecar.

    Pack, backbone and clips are read once, whatever the number of targets; see `export_model`.
    """
    pack = PromptPack.load(pack_path)
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
    clips = load_clips(clips_list, pack.clip, count)
    for target in targets:
        print(f"tracing {pack_path} for {target.name} ({target.precision}, opset {target.opset})", file=sys.stderr)
        directory = out / target.name
        yield (
            directory,
            export_model(model, directory, target, clips=clips, clip=pack.clip, labels=pack.labels, facts=facts),
        )


def load_clips(path: Path, spec: ClipSpec, count: int) -> np.ndarray:
    """Up to `count` clips spread evenly over a list, preprocessed: `[M, 3, T, H, W]` float32."""
    items = read_list(path)
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]
    return np.stack([load_clip(item.path, spec) for item in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.to_onnx", description="Export a pack to ONNX and prove parity.")
    parser.add_argument("pack", type=Path, help="pack.safetensors of a training run")
    parser.add_argument("--target", type=Path, required=True, nargs="+", help="one or more export/targets/*.toml")
    parser.add_argument("--clips", type=Path, required=True, help="list of videos for the parity gate")
    parser.add_argument("--count", type=int, default=32, help="how many of them to run (default 32)")
    parser.add_argument("--backbone", help="weights, when they are not where the pack's backbone name says")
    parser.add_argument(
        "--out", type=Path, help="directory that gets one directory a target (default: export beside PACK)"
    )
    parser.add_argument("--json", action="store_true", help="print the sidecars as JSON lines")
    args = parser.parse_args()
    targets = [load_target(path) for path in args.target]
    out = args.out or args.pack.parent / "export"
    for directory, sidecar in export_pack(args.pack, args.backbone, targets, args.clips, args.count, out):
        print(json.dumps(sidecar) if args.json else _summary(directory, sidecar))


def _summary(out: Path, sidecar: dict[str, Any]) -> str:
    parity = sidecar["parity"]
    return (
        f"{out}: {len(sidecar['prompts'])} prompt constants, parity over {parity['clips']} clips: "
        f"max |dlogit| {parity['max_abs']:.2e}, first label equal on {parity['top1_agreement']:.1%}"
    )


if __name__ == "__main__":
    run_tool(main, "export.to_onnx")
