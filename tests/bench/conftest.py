"""Exported models of two blocks, made once per run, and real clips for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.methods.vpt_deep import VptDeepTokens
from bench.build import TARGETS, random_clips
from export.model import Export
from export.target import load_target
from tests.apt_edge.video_files import write_video
from tests.conftest import TINY, TINY_CLIP, tiny_model, tiny_pack

LABELS = tuple(f"class {i}" for i in range(5))
TOKENS = 6


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exported model directories: linear, vpt-tokens, and apt (second block only) in every dialect."""
    torch.manual_seed(0)
    vit = freeze(Vit(TINY))
    root = tmp_path_factory.mktemp("exported")
    frames = random_clips(TINY_CLIP, 2)

    def save(module: torch.nn.Module, method: str, **targets: str) -> None:
        facts = {"method": method, "trainable_parameters": 77, "pack_sha256": method}
        model = Export(module, frames=frames, clip=TINY_CLIP, labels=LABELS, facts=facts)
        for name, target in targets.items():
            model.to(load_target(TARGETS / f"{target}.toml", ["gate=none"]), root / name.replace("_", "-"))

    save(folded_model(tiny_pack(vit, "linear"), vit), "linear", linear="onnxruntime-cpu")
    save(
        folded_model(tiny_pack(vit, "apt", tokens=TOKENS, start=1), vit),
        "apt",
        apt="onnxruntime-cpu",
        apt_decomposed="openvino-cpu",
        apt_attention="onnxruntime-cuda",
        apt_half="tensorrt-rtx",
    )
    vpt = tiny_model(vit, "vpt-deep", tokens=TOKENS)
    save(VptDeepTokens(vit, vpt.method, vpt.head).eval(), "vpt-deep", vpt_tokens="onnxruntime-cpu")
    return root


@pytest.fixture(scope="session")
def clip_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of two real videos."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("first.mp4", "second.mp4"):
        write_video(root / name, frames=12)
    (root / "list.csv").write_text("first.mp4 0\nsecond.mp4 1\n")
    return root / "list.csv"
