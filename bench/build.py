"""Models that exist for benchmarks alone, built by the export workshop and cached: random weights, unfolded prompts."""

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
from safetensors.torch import load_file
from torch import nn

import apt_edge
import bench.flops
import bench.suite
import export
from apt_edge.backbone.checkpoints import load_backbone, random_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.forms import changed
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, ModelError
from apt_edge.files import atomic_directory, sha256, write_json
from apt_edge.methods.tuned import TunedModel
from apt_edge.methods.vpt_deep import VptDeep, VptDeepTokens
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import INPUT, ONNX, OUTPUT, SIDECAR, ModelDir
from bench.flops import make_method
from bench.suite import RandomModel, SessionName
from export.model import Export
from export.target import load_target

TARGETS = Path(export.__file__).parent / "targets"
TARGET_OF: dict[SessionName, str] = {
    "onnxruntime-cpu": "onnxruntime-cpu",
    "openvino-float32": "openvino-cpu",
    "openvino-bfloat16": "openvino-cpu",
}
PLAIN_OPSET = 20
SEED = 0
FINGERPRINT = 12


def random_clips(spec: ClipSpec, count: int) -> np.ndarray:
    """`count` clips of noise as uint8 frames `[M, T, S, S, 3]`, the same on every machine."""
    shape = (count, spec.frames, spec.size, spec.size, 3)
    return np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8)


def build(request: RandomModel, session: SessionName, cache: Path) -> Path:
    """Export a random model for a session, unless `cache` already holds it.

    The directory's name ends in a fingerprint of all sources that the graph depends on, so that a changed exporter
    never meets an old graph; graphs of older sources are removed.

    Returns:
        The exported model directory.
    """
    target = TARGET_OF[session]
    settings = [f"{key}-{value}" for key, value in request.settings.items()]
    form = ["as-tokens"] if request.as_tokens else []
    kind = "plain" if request.export == "plain" else target
    name = "-".join([request.size, request.method, *settings, *form, f"{request.classes}-classes", kind])
    out = cache / f"{name}-{fingerprint()}"
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
        "backbone": {"name": f"random:{request.size}", "sha256": tuned.backbone_sha256},
    }
    labels = tuple(f"class {index}" for index in range(request.classes))
    if request.export == "plain":
        export_plain(module, out, clip=spec, labels=labels, facts=facts)
    else:
        model = Export(module, frames=random_clips(spec, 2), clip=spec, labels=labels, facts=facts)
        model.to(load_target(TARGETS / f"{target}.toml"), out)
    return out


def export_plain(
    module: nn.Module, out: Path, *, clip: ClipSpec, labels: tuple[str, ...], facts: Mapping[str, Any]
) -> None:
    """Export as one would without this project: PyTorch's exporter on the module, normalised clips, nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torchvision's operators and pytree internals
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(1, *clip.shape),),
            dynamo=True,
            opset_version=PLAIN_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    with atomic_directory(out) as directory:
        program.save(directory / ONNX)
        own = {"precision": "float32", "opset": PLAIN_OPSET, "clip": clip.to_dict(), "labels": list(labels)}
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
    pack_path, out = run / "pack.safetensors", run / "export" / "as-tokens"
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
        "sources": fingerprint(),
        "backbone": {"name": pack.backbone.name, "sha256": pack.backbone.sha256},
    }
    model = Export(module, frames=random_clips(pack.clip, 2), clip=pack.clip, labels=pack.labels, facts=facts)
    model.to(load_target(TARGETS / "onnxruntime-cpu.toml"), out)
    return out


def unfolded_model(run: Path) -> nn.Module:
    """A tuned VPT-deep as published, from its finished run; raises ConfigError when the run is of another method."""
    path = run / "pack.safetensors"
    pack = PromptPack.load(path)
    if pack.method != "vpt-deep":
        raise ConfigError(f"{run} is a run of {pack.method}", fix="only the prompts of vpt-deep can be tokens")
    vit = load_backbone(pack.backbone.name)
    method = VptDeep(vit.config, **pack.settings)
    method.load_state_dict(load_file(run / "method.safetensors"))
    return VptDeepTokens(vit, method, folded_model(pack, vit, pack.backbone.name, path).head).eval()


def random_model(request: RandomModel) -> tuple[nn.Module, TunedModel]:
    """The module to export, as deployed or with prompts as tokens, and the trainable form that it comes from."""
    vit = random_backbone(request.size, SEED)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        method = make_method(request.method, vit.config, request.settings)
        tuned = TunedModel(vit, method, request.classes)
        # A fresh classifier gives logits near 0, on which every graph would agree.
        nn.init.trunc_normal_(tuned.head.linear.weight, std=0.02)
    if request.as_tokens:
        assert isinstance(method, VptDeep)  # RandomModel allows no other
        return VptDeepTokens(vit, method, tuned.head).eval(), tuned
    deployed = method.deploy(vit)
    vit = changed(vit, deployed.form, deployed.changes)
    return FoldedModel(vit, tuned.head.folded(), deployed.kv).eval(), tuned


def fingerprint(*more: Path) -> str:
    """Hash of all sources that a graph and its proof depend on, of the libraries that write it, and of `more` files."""
    libraries = (torch, onnx, onnx_ir, onnxscript)
    digest = hashlib.sha256(" ".join(f"{library.__name__} {library.__version__}" for library in libraries).encode())
    sources = [Path(__file__), Path(bench.flops.__file__), Path(bench.suite.__file__), *more]
    for folder in (Path(apt_edge.__file__).parent, Path(export.__file__).parent):
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        sources += sorted(found)
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:FINGERPRINT]
