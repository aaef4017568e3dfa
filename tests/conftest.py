"""Shared fixtures: small real things, made once per run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.vit import Vit, VitConfig
from apt_edge.clip import ClipSpec
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel, make_pack
from apt_edge.pack import PromptPack
from export.bundle.wheel import build_wheel

TINY = VitConfig(width=64, depth=2, heads=2, frames=4, size=32, tubelet=2, patch=16)
TINY_CLIP = ClipSpec(frames=4, size=32, sampling="segments")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def tiny_vit() -> Vit:
    """A two-block backbone with random weights large enough to make prompts matter."""
    torch.manual_seed(0)
    vit = freeze(Vit(TINY))
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return vit


@pytest.fixture
def tiny_frames() -> np.ndarray:
    """Four clips as a model sees them, uint8 `[4, 4, 32, 32, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def tiny_clips() -> np.ndarray:
    """Four clips `[4, 3, 4, 32, 32]`."""
    return np.random.default_rng(0).normal(size=(4, *TINY_CLIP.shape)).astype(np.float32)


def tiny_model(vit: Vit, method: str = "apt", classes: int = 5, **settings: object) -> TunedModel:
    """A tuned model whose every trainable tensor is random, so that nothing is zero by initialisation."""
    torch.manual_seed(1)
    model = TunedModel(vit, METHODS[method](vit.config, **settings), classes).eval()
    for parameter in [*model.method.parameters(), *model.head.parameters()]:
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    return model


def tiny_pack(vit: Vit, method: str = "apt", **settings: object) -> PromptPack:
    """A pack of `tiny_model`."""
    model = tiny_model(vit, method, **settings)
    labels = [f"class {i}" for i in range(5)]
    return make_pack(
        model, method=method, settings=settings, clip=TINY_CLIP, labels=labels, backbone="tiny", training={}
    )
