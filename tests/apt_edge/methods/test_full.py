"""Full tuning: stochastic depth, rates that fall with depth, and a pack that holds the whole backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from apt_edge.backbone.vit import SIZES
from apt_edge.methods import Full
from apt_edge.methods.cost import backbone_parameters, head_parameters
from tests.apt_edge.methods.conftest import SMALL, prove, tuned


def test_deployed_form(vit, clips, tmp_path):
    prove(vit, clips, tmp_path, "full", bound=0.0)


def test_parameters_of_vit_base_with_the_head_of_ssv2():
    base = SIZES["vit-base"]
    assert Full(base).parameter_count() + head_parameters(base, 174) == 86_361_006


@pytest.mark.parametrize("size", ["vit-small", "vit-huge", "nano"])
def test_numbers_of_a_backbone(size):
    from apt_edge.backbone.vit import Vit

    with torch.device("meta"):
        assert backbone_parameters(SIZES[size]) == sum(p.numel() for p in Vit(SIZES[size]).parameters())


def test_learning_rates_fall_with_depth():
    method = Full(SIZES["vit-base"], layer_decay=0.75)
    assert method.rate_factor("head.linear.weight") == 1
    assert method.rate_factor("vit.blocks.11.attn.qkv.weight") == 0.75
    assert method.rate_factor("vit.blocks.0.fc1.bias") == 0.75**12
    assert method.rate_factor("vit.patch.weight") == 0.75**13


def test_every_trained_tensor_of_the_backbone_has_a_rate(vit):
    model = tuned(vit, "full")
    factors = {model.method.rate_factor(name) for name, p in model.named_parameters() if p.requires_grad}
    assert factors == {1.0, 0.75, 0.75**2, 0.75**3, 0.75**4}


def test_branches_are_dropped_a_clip_at_a_time_and_rarely_at_first(vit):
    torch.manual_seed(0)
    method = Full(SMALL, drop_path=0.5).train()
    assert method.drop_rates == [0.0, 0.25, 0.5]
    branch = torch.ones(4000, 2, 3)
    for rate in method.drop_rates:
        kept = method._drop_path(branch, rate)
        assert (kept == kept[:, :1, :1]).all()  # a clip as a whole
        values = kept[:, 0, 0]
        assert torch.allclose(values[values != 0], torch.tensor(1 / (1 - rate)))
        assert (values == 0).float().mean().item() == pytest.approx(rate, abs=0.03)
        assert values.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(method.eval()._drop_path(branch, 0.5), branch)


def test_dropped_branches_change_training_and_leave_evaluation_alone(vit, clips):
    method = Full(SMALL, drop_path=0.9)
    tokens = vit.embed(clips)
    assert torch.equal(method.eval().run(vit, tokens), vit.run_blocks(tokens))
    torch.manual_seed(0)
    assert not torch.equal(method.train().run(vit, tokens), vit.run_blocks(tokens))


def test_the_backbone_is_trained_as_given_and_kept_by_hash(vit):
    model = tuned(vit, "full")
    assert isinstance(model.vit, nn.Module)
    assert all(parameter.requires_grad for parameter in model.vit.parameters())
    assert model.prefix_shape() == (3, 8, 32, 32)
