"""Models that exist for benchmarks alone, built by the export workshop and cached: random weights, unfolded prompts."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import apt_edge
import export
from apt_edge.backbone.checkpoints import backbone_hash, load_backbone, random_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, ModelError
from apt_edge.files import sha256
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel
from apt_edge.methods.vpt_deep import VptDeep, VptDeepTokens
from apt_edge.pack import PromptPack
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


def build_unfolded(run: Path) -> Path:
    """Export a tuned VPT-deep as published: its prompts are tokens, not constants.

    Args:
        run: finished run of `train.tune`; the graph goes to `export/as-tokens` in it and is reused for the same pack.

    Returns:
        The exported model directory.

    Raises:
        ConfigError: the run is of another method.
    """
    pack_path, out = run / "pack.safetensors", run / "export" / "as-tokens"
    pack, digest = PromptPack.load(pack_path), sha256(pack_path)
    if pack.method != "vpt-deep":
        raise ConfigError(f"{run} is a run of {pack.method}", fix="only the prompts of vpt-deep can be tokens")
    with contextlib.suppress(ModelError):  # absent or damaged
        if (model := ModelDir.load(out)).facts.get("pack_sha256") == digest:
            return model.path
    print(f"building {out}", file=sys.stderr)
    vit = load_backbone(pack.backbone.name)
    method = VptDeep(vit.config, **pack.settings)
    method.load_state_dict(load_file(run / "method.safetensors"))
    module = VptDeepTokens(vit, method, folded_model(pack, vit, pack.backbone.name, pack_path).head).eval()
    facts = {
        "method": pack.method,
        "trainable_parameters": pack.trainable_parameters,
        "pack_sha256": digest,
        "backbone": {"name": pack.backbone.name, "sha256": pack.backbone.sha256},
    }
    clips = random_clips(pack.clip, 2)
    export_model(module, out, load_target(TARGET), clips=clips, clip=pack.clip, labels=pack.labels, facts=facts)
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
