"""Exported models of two blocks, made once per run, and real clips for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.methods.vpt_deep import VptDeepTokens
from export.target import Target, load_target
from export.to_onnx import export_model
from tests.apt_edge.video_files import write_video
from tests.conftest import TINY, TINY_CLIP, tiny_model, tiny_pack

TARGETS = Path("export/targets")
LABELS = tuple(f"class {i}" for i in range(5))
TOKENS = 6


def cpu_target() -> Target:
    return load_target(TARGETS / "onnxruntime-cpu.toml")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exported model directories: linear, apt and apt-half (second block only), vpt-tokens."""
    torch.manual_seed(0)
    vit = freeze(Vit(TINY))
    root = tmp_path_factory.mktemp("exported")
    clips = np.random.default_rng(0).normal(size=(2, *TINY_CLIP.shape)).astype(np.float32)

    def save(name: str, module: torch.nn.Module, method: str, target: Target) -> None:
        facts = {"method": method, "trainable_parameters": 77, "pack_sha256": method}
        export_model(module, root / name, target, clips=clips, clip=TINY_CLIP, labels=LABELS, facts=facts)

    apt = folded_model(tiny_pack(vit, "apt", tokens=TOKENS, start=1), vit)
    save("linear", folded_model(tiny_pack(vit, "linear"), vit), "linear", cpu_target())
    save("apt", apt, "apt", cpu_target())
    save("apt-half", apt, "apt", load_target(TARGETS / "tensorrt-rtx.toml"))
    vpt = tiny_model(vit, "vpt-deep", tokens=TOKENS)
    save("vpt-tokens", VptDeepTokens(vit, vpt.method, vpt.head).eval(), "vpt-deep", cpu_target())
    return root


@pytest.fixture(scope="session")
def clip_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of two real videos."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("first.mp4", "second.mp4"):
        write_video(root / name, frames=12)
    (root / "list.csv").write_text("first.mp4 0\nsecond.mp4 1\n")
    return root / "list.csv"
