"""AIM-joint: both adapters are merged into products that are there already."""

from __future__ import annotations

import pytest
import torch

from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import SIZES, Block
from apt_edge.methods import Aim
from apt_edge.methods.cost import backbone_macs, head_macs
from tests.apt_edge.methods.conftest import RANGES, prove, tuned


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_deployed_form(vit, clips, tmp_path, start, end):
    prove(vit, clips, tmp_path, "aim", start=start, end=end)


def test_seven_products_a_block_become_four(vit):
    """The projection, two adapters of two layers and the two layers of the MLP are `joint`, `up`, `fc1` and `fc2`."""
    model = tuned(vit, "aim", start=1, end=1)
    deployed = model.method.deploy(model.vit)
    backbone = changed(vit, deployed.form, deployed.changes)
    shapes = {name: tuple(p.shape) for name, p in backbone.block(1).named_parameters() if p.dim() == 2}
    assert shapes == {
        "attn.qkv.weight": (192, 64),
        "attn.proj.joint.weight": (80, 64),
        "attn.proj.up.weight": (64, 16),
        "fc1.weight": (272, 64),
        "fc2.weight": (64, 272),
    }
    assert type(backbone.block(1)) is Block


def test_counts_on_vit_base():
    base = SIZES["vit-base"]
    with torch.device("meta"):
        method = Aim(base)
    assert method.parameter_count() == 12 * 2 * 295_872 == sum(p.numel() for p in method.parameters())
    total = backbone_macs(base) + head_macs(base, 101) + method.added_macs(deployed=True)
    assert round(total / 1e9, 3) == 191.587


def test_initialisation(vit):
    branches = Aim(SIZES["vit-base"], start=11).adapters[0]
    for branch in (branches.attn, branches.mlp):
        assert branch.down.weight.detach().std().item() == pytest.approx(0.02, rel=2e-2)
        assert not any(tensor.any() for tensor in (branch.down.bias, branch.up.weight, branch.up.bias))
