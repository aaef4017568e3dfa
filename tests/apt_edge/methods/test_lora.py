"""LoRA: nothing is left of it but other weights."""

from __future__ import annotations

import pytest
import torch

from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import SIZES
from apt_edge.methods import Lora
from tests.apt_edge.methods.conftest import RANGES, prove, tuned


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_deployed_form(vit, clips, tmp_path, start, end):
    prove(vit, clips, tmp_path, "lora", rank=4, start=start, end=end)


def test_only_query_and_value_weights_of_the_adapted_blocks_change(vit):
    model = tuned(vit, "lora", rank=4, alpha=8.0, start=1, end=1)
    deployed = model.method.deploy(model.vit)
    assert sum(tensor.numel() for tensor in deployed.changes.values()) == model.method.parameter_count()
    after, before = changed(vit, deployed.form, deployed.changes).state_dict(), vit.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["blocks.1.attn.qkv.weight"]
    change = after["blocks.1.attn.qkv.weight"] - before["blocks.1.attn.qkv.weight"]
    factors = model.method.adapters[0].query
    assert torch.allclose(change[:64], 2.0 * factors.up.weight @ factors.down.weight, atol=1e-5)
    assert not change[64:128].any()
    assert torch.linalg.matrix_rank(change[128:], atol=1e-4) == 4


def test_counts_on_vit_base():
    base = SIZES["vit-base"]
    method = Lora(base, rank=8)
    assert method.parameter_count() == 294_912
    assert method.added_macs(deployed=True) == 0
    assert method.added_macs(deployed=False) == 12 * 4 * 1568 * 768 * 8


def test_initialisation():
    factors = Lora(SIZES["vit-base"], rank=8, start=11).adapters[0]
    for pair in (factors.query, factors.value):
        assert pair.down.weight.detach().abs().max().item() == pytest.approx(768**-0.5, rel=1e-2)
        assert not pair.up.weight.any()
