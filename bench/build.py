"""Random-weight models for benchmarks, built by the export workshop and cached."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import apt_edge
import export
from apt_edge.backbone.checkpoints import backbone_hash, random_backbone
from apt_edge.backbone.folded import FoldedModel
from apt_edge.clip import ClipSpec
from apt_edge.errors import ModelError
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel
from apt_edge.methods.vpt_deep import VptDeep, VptDeepTokens
from apt_edge.runtime.model_dir import ModelDir
from bench.suite import RandomModel
from export.target import load_target
from export.to_onnx import export_model

TARGET = Path(export.__file__).parent / "targets" / "onnxruntime-cpu.toml"
SEED = 0
FINGERPRINT = 12


def random_clips(spec: ClipSpec, count: int) -> np.ndarray:
    """`count` normalised clips of noise, float32 `[M, 3, T, S, S]`, the same on every machine."""
    return np.random.default_rng(SEED).standard_normal((count, *spec.shape), dtype=np.float32)


def build(request: RandomModel, cache: Path) -> Path:
    """Export a random model for ONNX Runtime on a CPU, unless `cache` already holds it.

    The directory's name ends in a fingerprint of all sources that the graph depends on, so that a changed exporter
    never meets an old graph; graphs of older sources are removed.

    Returns:
        The exported model directory.
    """
    tokens = f"-{request.tokens}{'-as-tokens' if request.as_tokens else ''}" if request.tokens else ""
    name = f"{request.size}-{request.method}{tokens}-{request.classes}-classes"
    out = cache / f"{name}-{_fingerprint()}"
    try:
        return ModelDir.load(out).path
    except ModelError:  # absent or damaged
        print(f"building {out}", file=sys.stderr)
    for old in cache.glob(f"{name}-{'[0-9a-f]' * FINGERPRINT}"):
        shutil.rmtree(old)
    module, tuned = random_model(request)
    config = tuned.vit.config
    spec = ClipSpec(frames=config.frames, size=config.size)
    facts = {
        "method": request.method,
        "trainable_parameters": tuned.trainable_parameters(),
        "backbone": {"name": f"random:{request.size}", "sha256": backbone_hash(tuned.vit)},
        "prompt_tokens": {str(block): request.tokens for block in tuned.method.blocks},
    }
    labels = tuple(f"class {index}" for index in range(request.classes))
    clips = random_clips(spec, 2)
    export_model(module, out, load_target(TARGET), clips=clips, clip=spec, labels=labels, facts=facts)
    return out


def random_model(request: RandomModel) -> tuple[nn.Module, TunedModel]:
    """The module to export, folded or with prompts as tokens, and the trainable form that it comes from."""
    vit = random_backbone(request.size, SEED)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        settings: dict[str, Any] = {"tokens": request.tokens} if request.tokens else {}
        tuned = TunedModel(vit, METHODS[request.method](vit.config, **settings), request.classes)
    if request.as_tokens:
        assert isinstance(tuned.method, VptDeep)  # RandomModel allows no other
        return VptDeepTokens(vit, tuned.method, tuned.head).eval(), tuned
    return FoldedModel(vit, tuned.head, tuned.method.fold(vit)).eval(), tuned


def _fingerprint() -> str:
    digest = hashlib.sha256(f"torch {torch.__version__}".encode())
    library, exporter = Path(apt_edge.__file__).parent, Path(export.__file__).parent
    sources = [TARGET, Path(__file__), library / "clip.py"]
    for folder in (library / "backbone", library / "methods", exporter):
        sources += sorted(folder.glob("*.py"))
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:FINGERPRINT]
