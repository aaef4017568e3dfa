"""A backbone of three blocks and four time steps, and the proofs that every method has to pass on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import ExtraKV, Vit, VitConfig
from apt_edge.clip import ClipSpec
from apt_edge.methods.base import Deployed
from apt_edge.methods.tuned import TunedModel, make_pack
from apt_edge.pack import PromptPack
from tests.conftest import tiny_model

SMALL = VitConfig(width=64, depth=3, heads=2, frames=8, size=32, tubelet=2, patch=16)
CLIP = ClipSpec(frames=8, size=32, sampling="segments")
RANGES = [(0, None), (0, 0), (1, 1), (1, None)]
LABELS = [f"class {i}" for i in range(5)]


@pytest.fixture
def vit() -> Vit:
    """Three blocks with random weights large enough to make every change matter."""
    torch.manual_seed(0)
    vit = freeze(Vit(SMALL))
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return vit


@pytest.fixture
def clips() -> Tensor:
    """Three clips `[3, 3, 8, 32, 32]`."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, *CLIP.shape)).astype(np.float32))


def tuned(vit: Vit, name: str, **settings: object) -> TunedModel:
    """A model on a copy of the backbone, with every trained tensor random."""
    model = tiny_model(copy.deepcopy(vit), name, **settings)
    if model.method.tunes_backbone:
        for parameter in model.vit.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def double(model: TunedModel) -> TunedModel:
    """In float64, positions included."""
    model = model.double()
    model.vit.positions = model.vit.positions.double()
    return model


def rebuilt(vit: Vit, model: TunedModel, deployed: Deployed | None = None) -> FoldedModel:
    """What reaches the device, from the untouched backbone and what the method leaves behind."""
    vit = copy.deepcopy(vit).to(model.head.linear.weight.dtype)
    vit.positions = vit.positions.to(model.head.linear.weight.dtype)
    deployed = deployed or model.method.deploy(model.vit)
    return FoldedModel(changed(vit, deployed.form, deployed.changes), model.head.folded(), deployed.kv).eval()


@torch.no_grad()
def prove(
    vit: Vit,
    clips: Tensor,
    tmp_path: Path,
    name: str,
    published: Callable[[TunedModel], nn.Module] = lambda model: model,
    bound: float = 1e-10,
    **settings: object,
) -> None:
    """The deployed form gives the training form's logits: in float64, and in float32 through a pack on disk.

    Every constant counts: with any one of them changed by a tenth the logits differ.
    """
    model = tuned(vit, name, **settings)
    pack = make_pack(model, method=name, settings=settings, clip=CLIP, labels=LABELS, backbone="small", training={})
    pack.save(tmp_path / "pack.safetensors")
    again = folded_model(PromptPack.load(tmp_path / "pack.safetensors"), copy.deepcopy(vit))
    assert model(clips).abs().max() > 0.5
    assert (again(clips) - model(clips)).abs().max() <= 1e-4

    model, clips = double(model), clips.double()
    expected = published(model)(clips)
    deployed = model.method.deploy(model.vit)
    assert (model(clips) - expected).abs().max() <= bound
    assert (rebuilt(vit, model, deployed)(clips) - expected).abs().max() <= bound
    for changed_name, tensor in deployed.changes.items():
        wrong = Deployed(deployed.kv, deployed.form, {**deployed.changes, changed_name: 1.1 * tensor})
        assert (rebuilt(vit, model, wrong)(clips) - expected).abs().max() > 1e-8, changed_name
    for block, (key, value, _) in deployed.kv.items():
        for kv in (ExtraKV(1.1 * key, value), ExtraKV(key, 1.1 * value)):
            wrong = Deployed({**deployed.kv, block: kv}, deployed.form, deployed.changes)
            assert (rebuilt(vit, model, wrong)(clips) - expected).abs().max() > 1e-8, block


def fvcore_macs(module: nn.Module, config: VitConfig) -> int:
    """MACs of one clip as fvcore counts them on the module itself."""
    module = copy.deepcopy(module).requires_grad_(False).eval()
    analysis = FlopCountAnalysis(module, torch.zeros(1, 3, config.frames, config.size, config.size))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _count_attention)
    return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def _count_attention(inputs: list, outputs: list) -> int:
    """Both products, for the fused operator that fvcore does not know."""
    keys = get_shape(inputs[1])[-2]
    return 2 * keys * prod(get_shape(inputs[0]))
