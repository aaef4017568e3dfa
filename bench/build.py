"""Exported models that exist for benchmarks alone: random weights, unfolded prompts, PyTorch's plain export; cached."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxscript
import torch
from torch import nn

import apt_edge
import bench.flops
import bench.huggingface
import bench.modules
import bench.suite
import export
from apt_edge.clip import ClipSpec
from apt_edge.errors import ModelError
from apt_edge.files import atomic_directory, sha256, write_json
from apt_edge.methods.tuned import TunedModel
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import INPUT, ONNX, OUTPUT, SIDECAR, ModelDir
from bench.modules import PACK, SEED, FromFrames, clip_of, random_model, unfolded_model
from bench.suite import RandomModel, SessionName
from export.graph.batch import BATCH
from export.model import Export
from export.target import load_target

TARGETS = Path(export.__file__).parent / "targets"
TARGET_OF: dict[SessionName, str] = {
    "onnxruntime-cpu": "onnxruntime-cpu",
    "onnxruntime-cuda": "onnxruntime-cuda",
    "openvino-float32": "openvino-cpu",
    "openvino-bfloat16": "openvino-cpu",
}
PLAIN_OPSET = 20
FINGERPRINT = 12


def random_clips(spec: ClipSpec, count: int) -> np.ndarray:
    """`count` clips of noise as uint8 frames `[M, T, S, S, 3]`, the same on every machine."""
    shape = (count, spec.frames, spec.size, spec.size, 3)
    return np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8)


def build(request: RandomModel, session: SessionName, cache: Path, batch: int = 1) -> Path:
    """Export a random model for a session, unless `cache` already holds it.

    The directory's name ends in a fingerprint of all sources that the graph depends on, so that a changed exporter
    never meets an old graph; graphs of older sources are removed.

    Args:
        request: the model.
        session: what runs it.
        cache: directory of all such models.
        batch: the most clips a run; the batch axis is free when it is more than one.

    Returns:
        The exported model directory.
    """
    target = TARGET_OF[session]
    name = _name(request, target, batch)
    out = cache / f"{name}-{fingerprint()}"
    try:
        return ModelDir.load(out).path
    except ModelError:  # absent or damaged
        print(f"building {out}", file=sys.stderr)
    for old in cache.glob(f"{name}-{'[0-9a-f]' * FINGERPRINT}"):
        shutil.rmtree(old)
    module, tuned = random_model(request)
    spec, facts = clip_of(request), random_facts(request, tuned)
    labels = tuple(facts.pop("labels"))
    if request.export == "plain":
        export_plain(module, out, clip=spec, labels=labels, facts=facts, batch=batch)
    else:
        model = Export(module, frames=random_clips(spec, 2), clip=spec, labels=labels, facts=facts)
        model.to(load_target(TARGETS / f"{target}.toml", [f"batch.opt={batch}", f"batch.max={batch}"]), out)
    return out


def random_facts(request: RandomModel, tuned: TunedModel) -> dict[str, Any]:
    """What the sidecar of a random model says of its weights."""
    return {
        "method": request.method,
        "settings": request.settings,
        "trainable_parameters": tuned.trainable_parameters(),
        "backbone": {"name": f"random:{request.size}", "sha256": tuned.backbone_sha256},
        "labels": [f"class {index}" for index in range(request.classes)],
    }


def _name(request: RandomModel, target: str, batch: int) -> str:
    """What tells one random model from the others."""
    sizes = {"frames": request.frames, "pixels": request.pixels}
    parts = [
        request.size,
        *(f"{value}-{key}" for key, value in sizes.items() if value),
        request.method,
        *(f"{key}-{value}" for key, value in request.settings.items()),
        *(["as-tokens"] if request.as_tokens else []),
        f"{request.classes}-classes",
        *(["huggingface"] if request.huggingface else []),
        "plain" if request.export == "plain" else target,
        *([f"batch-{batch}"] if batch > 1 else []),
    ]
    return "-".join(parts)


def export_plain(
    module: nn.Module, out: Path, *, clip: ClipSpec, labels: tuple[str, ...], facts: Mapping[str, Any], batch: int = 1
) -> None:
    """Export as one would without this project: PyTorch's exporter on the module, nothing else.

    The graph takes uint8 frames like every other contender and normalises them itself.
    """
    rows = min(batch, 2)  # an axis of length 1 would be taken for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torchvision's operators and pytree internals
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        program = torch.onnx.export(
            FromFrames(module, clip).eval(),
            (torch.zeros(rows, clip.frames, clip.size, clip.size, 3, dtype=torch.uint8),),
            dynamo=True,
            opset_version=PLAIN_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH, max=batch)},) if batch > 1 else None,
            verbose=False,
        )
    assert program is not None
    with atomic_directory(out) as directory:
        program.save(directory / ONNX)
        shape = [None if batch > 1 else 1, clip.frames, clip.size, clip.size, 3]
        inputs = {INPUT: {"dtype": "uint8", "shape": shape, "profile": None}}
        described = {"clip": clip.to_dict(), "labels": list(labels), "inputs": inputs}
        own = {"precision": "float32", "opset": PLAIN_OPSET, **described}
        write_json(directory / SIDECAR, {**own, "onnx_sha256": sha256(directory / ONNX), **facts})


def build_unfolded(run: Path) -> Path:
    """Export a tuned VPT-deep as published: its prompts are tokens, not constants.

    Args:
        run: finished run of `train.tune`; the graph goes to `export/as-tokens` in it and is reused for the same pack
            and sources.

    Returns:
        The exported model directory.

    Raises:
        ConfigError: the run is of another method.
    """
    pack_path, out = run / PACK, run / "export" / "as-tokens"
    pack, digest = PromptPack.load(pack_path), sha256(pack_path)
    with contextlib.suppress(ModelError):  # absent or damaged
        known = ModelDir.load(out).facts
        if (known.get("pack_sha256"), known.get("sources")) == (digest, fingerprint()):
            return out
    print(f"building {out}", file=sys.stderr)
    module = unfolded_model(run)
    facts = {
        "method": pack.method,
        "trainable_parameters": pack.trainable_parameters,
        "pack_sha256": digest,
        "prompt_tokens": {str(block): tokens for block, tokens in pack.tokens.items()},
        "sources": fingerprint(),
        "backbone": {"name": pack.backbone.name, "sha256": pack.backbone.sha256},
    }
    model = Export(module, frames=random_clips(pack.clip, 2), clip=pack.clip, labels=pack.labels, facts=facts)
    model.to(load_target(TARGETS / "onnxruntime-cpu.toml"), out)
    return out


def fingerprint(*more: Path) -> str:
    """Hash of all sources that a graph and its proof depend on, of the libraries that write it, and of `more` files."""
    libraries = (torch, onnx, onnx_ir, onnxscript)
    digest = hashlib.sha256(" ".join(f"{library.__name__} {library.__version__}" for library in libraries).encode())
    modules = (bench.flops, bench.huggingface, bench.modules, bench.suite)
    sources = [Path(__file__), *(Path(str(module.__file__)) for module in modules), *more]
    for folder in (Path(apt_edge.__file__).parent, Path(export.__file__).parent):
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        sources += sorted(found)
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:FINGERPRINT]
