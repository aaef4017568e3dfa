"""One cell of the export matrix: a tuned model exported for one target, proved, and what its graph holds."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from torch import nn

import bench.graph
from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import size_by_name
from apt_edge.clip import ClipSpec
from apt_edge.errors import GateError
from apt_edge.files import sha256
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import ONNX
from apt_edge.tables import Row
from bench.build import fingerprint
from bench.graph import graph_macs
from bench.modules import METHOD, PACK, random_model, unfolded_model
from bench.suite import RandomModel
from export.engine.compiler import load_compiler
from export.model import Export
from export.target import Target

FOLDED, AS_TOKENS = "vpt-deep folded", "vpt-deep as tokens"


@dataclass(frozen=True)
class Candidate:
    """One column of the matrix.

    Attributes:
        name: as tables show it; the method's, and for VPT-deep the form.
        backbone: name of its backbone.
        weights: what tells its weights from others, for the reuse of rows.
        clip: the input contract.
        labels: class names.
        prompts: prompts of each prompted block; empty for methods without.
        make: the module `clip -> logits`; called when a cell of this column is missing.
    """

    name: str
    backbone: str
    weights: str
    clip: ClipSpec
    labels: tuple[str, ...]
    make: Callable[[], nn.Module]
    prompts: Mapping[int, int] = field(default_factory=dict)


def trained(runs: Sequence[Path]) -> Iterator[Candidate]:
    """The packs of finished training runs, and VPT-deep once more with its prompts as tokens."""
    for run in runs:
        path = run / PACK
        pack = PromptPack.load(path)
        shared: dict[str, Any] = {
            "backbone": pack.backbone.name,
            "clip": pack.clip,
            "labels": pack.labels,
            "prompts": dict(pack.tokens),
        }
        deep = pack.method == "vpt-deep"
        yield Candidate(FOLDED if deep else pack.method, weights=sha256(path), make=_folded(path), **shared)
        if deep:
            weights = f"{sha256(path)} {sha256(run / METHOD)}"
            yield Candidate(AS_TOKENS, weights=weights, make=_unfolded(run), **shared)


def _folded(path: Path) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pack = PromptPack.load(path)
        return folded_model(pack, load_backbone(pack.backbone.name), pack.backbone.name, path)

    return make


def _unfolded(run: Path) -> Callable[[], nn.Module]:
    return lambda: unfolded_model(run)


def untrained(size: str, tokens: int, classes: int) -> Iterator[Candidate]:
    """Random weights at any size, `tokens` prompts in all blocks: memory and fusion do not depend on their values."""
    config = size_by_name(size)
    everywhere = dict.fromkeys(range(config.depth), tokens)
    requests = {
        "linear": RandomModel(size=size, method="linear", classes=classes),
        "apt": RandomModel(size=size, method="apt", settings={"tokens": tokens}, classes=classes),
        FOLDED: RandomModel(size=size, method="vpt-deep", settings={"tokens": tokens}, classes=classes),
        AS_TOKENS: RandomModel(
            size=size, method="vpt-deep", settings={"tokens": tokens}, as_tokens=True, classes=classes
        ),
        "vpt-shallow": RandomModel(size=size, method="vpt-shallow", settings={"tokens": tokens}, classes=classes),
        "adaptformer": RandomModel(size=size, method="adaptformer", classes=classes),
    }
    for name, request in requests.items():
        yield Candidate(
            name,
            backbone=f"random:{size}",
            weights=request.model_dump_json(),
            clip=ClipSpec(frames=config.frames, size=config.size),
            labels=tuple(f"class {index}" for index in range(classes)),
            prompts=everywhere if name in ("apt", FOLDED, AS_TOKENS) else {},
            make=_random(request),
        )


def _random(request: RandomModel) -> Callable[[], nn.Module]:
    return lambda: random_model(request)[0]


@cache
def sources_sha256() -> str:
    """Hash of the sources that a cell depends on, once: a process runs them as they were when it began."""
    return fingerprint(Path(__file__), Path(bench.graph.__file__))


def inputs_sha256(candidate: Candidate, target: Target, frames: np.ndarray) -> str:
    """Hash of all that a cell depends on: weights, target, clips, sources, libraries and the compiler."""
    facts = [
        candidate.weights,
        target.model_dump(),
        hashlib.sha256(frames.tobytes()).hexdigest(),
        sources_sha256(),
        onnxruntime.__version__,
        load_compiler(target.gate).__version__ if target.gate != "none" else None,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def cell(candidate: Candidate, model: Export, target: Target) -> Row:
    """Export, prove and count; the graph itself is not kept. `refused` holds the reason when no form of it passes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / target.name
        row: Row = {"method": candidate.name, "backbone": candidate.backbone, "target": target.name}
        try:
            sidecar = model.to(target, out)
        except GateError as error:
            return {**row, "refused": str(error)}
        gate = sidecar["gate"] or {}
        return {
            **row,
            "prompts": {str(block): count for block, count in candidate.prompts.items()},
            "numerics": sidecar["numerics"]["chosen"],
            "numerics_reason": sidecar["numerics"]["reason"],
            "precision": sidecar["precision"],
            "opset": sidecar["opset"],
            "attention_form": sidecar["attention_form"],
            "attention": sidecar["attention"],
            **{key: sidecar["parity"][key] for key in ("max_abs", "mean_abs", "max_logit", "kl", "top1_agreement")},
            "clips": sidecar["parity"]["clips"],
            **{key: gate.get(key) for key in ("compiler", "fused_attention", "prompt_constants", "layers")},
            **{key: gate.get(key) for key in ("activation_bytes", "weight_bytes", "plan_bytes")},
            "constants": len(sidecar["prompts"]),
            "gmacs": graph_macs(out / ONNX) / 1e9,
            "onnx_bytes": (out / ONNX).stat().st_size,
            "prompt_bytes": _prompt_bytes(out / ONNX, sidecar["prompts"]),
            "onnx_sha256": sidecar["onnx_sha256"],
        }


def _prompt_bytes(path: Path, names: Sequence[str]) -> int:
    stored = {tensor.name: tensor for tensor in onnx.load(str(path)).graph.initializer}
    return sum(
        prod(stored[name].dims) * onnx.helper.tensor_dtype_to_np_dtype(stored[name].data_type).itemsize
        for name in names
    )
