"""APT: its fold is exact, its scale is the published one, its counts are the paper's."""

from __future__ import annotations

import pytest
import torch

from apt_edge.backbone.vit import SIZES
from apt_edge.methods import Apt
from apt_edge.methods.cost import backbone_macs, head_macs, head_parameters
from tests.apt_edge.methods.conftest import RANGES, SMALL, double, prove, rebuilt, tuned


@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("reparam", ["max1", "softplus", "none"])
def test_fold(vit, clips, tmp_path, start, end, reparam):
    prove(vit, clips, tmp_path, "apt", bound=0.0, tokens=6, start=start, end=end, reparam=reparam)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_fold_is_the_definition_of_the_paper(vit, clips, scale):
    """A scale below 1 counts as 1."""
    model = double(tuned(vit, "apt", tokens=6, start=1))
    model.method.scale.data.fill_(scale)
    constants = model.method.fold(model.vit)
    assert sorted(constants) == [1, 2]
    assert torch.equal(constants[1].key[0, 0], model.method.key[0] * max(scale, 1.0))
    assert torch.equal(constants[1].value[0, 0], model.method.value[0] * max(scale, 1.0))
    assert (rebuilt(vit, model)(clips.double()) - model(clips.double())).abs().max() == 0


def test_folding_switches_dropout_off_and_training_mode_back_on(vit):
    method = Apt(SMALL, tokens=50, dropout=0.5).train()
    first, second = method.fold(vit), method.fold(vit)
    assert torch.equal(first[0].key, second[0].key)
    assert (first[0].key != 0).all()
    assert method.training
    assert (method.extra(vit)[0].key == 0).any()


def test_scale_gradient_is_the_published_one(vit):
    method = Apt(SMALL, tokens=3, end=0, dropout=0.0)
    method.scale.data[0, 0] = torch.tensor([0.5, 1.0, 2.0])
    method.extra(vit)[0].key.sum().backward()
    factors = method.scale.grad[0, 0] / method.key.detach()[0].sum(1)
    assert torch.allclose(factors, torch.tensor([0.0, 0.5, 1.0]))


def test_softplus_starts_near_one_and_has_a_gradient_everywhere(vit):
    method = Apt(SMALL, tokens=3, end=0, dropout=0.0, reparam="softplus")
    assert torch.allclose(method.fold(vit)[0].key[0, 0] / method.key[0], torch.tensor(1.0486), atol=1e-4)
    method.scale.data[0, 0] = torch.tensor([-8.0, -3.0, 4.0])
    method.extra(vit)[0].key.sum().backward()
    slope = method.scale.grad[0, 0] / method.key.detach()[0].sum(1)
    assert torch.allclose(slope, torch.tensor([-8.0, -3.0, 4.0]).sigmoid(), atol=1e-6)
    assert (method.scale.grad[0, 0] != 0).all()


def test_dead_scales_are_reported(vit):
    method = Apt(SMALL, tokens=5)
    assert method.health() == {"dead_scales": 0.0}  # a scale of exactly 1 still has half a gradient
    method.scale.data[0] = 0.99
    assert method.health()["dead_scales"] == pytest.approx(1 / 3)
    assert Apt(SMALL, tokens=5, reparam="softplus").health() == {}
    assert Apt(SMALL, tokens=5, reparam="none").health() == {}


def test_weight_decay_is_kept_from_the_scales():
    names = dict(Apt(SMALL, tokens=2).named_parameters())
    assert Apt.undecayed <= names.keys()


@pytest.mark.parametrize("size", ["vit-small", "vit-base"])
def test_initialisation(size):
    torch.manual_seed(0)
    method = Apt(SIZES[size], tokens=400)
    assert method.key.detach().abs().max().item() == pytest.approx(0.084921, rel=1e-3)
    assert method.key.detach().std().item() == pytest.approx(0.084921 / 3**0.5, rel=1e-2)
    assert not torch.equal(method.key, method.value)
    assert (method.scale == 1).all()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(400, 691_758), (600, 1_003_758), (800, 1_315_758), (1000, 1_627_758), (1200, 1_939_758), (1400, 2_251_758)]
    + [(1600, 2_563_758), (2000, 3_187_758)],
)
def test_parameters_of_table_1(tokens, expected):
    small = SIZES["vit-small"]
    assert Apt(small, tokens).parameter_count() + head_parameters(small, 174) == expected


@pytest.mark.parametrize(
    ("tokens", "parameters", "gmacs"),
    [(1, 80_765, 180.518), (5, 87_005, 180.634), (100, 235_205, 183.379), (200, 391_205, 186.269)]
    + [(400, 703_205, 192.050)],
)
def test_parameters_and_gmacs_of_table_5(tokens, parameters, gmacs):
    base = SIZES["vit-base"]
    method = Apt(base, tokens)
    assert method.parameter_count() + head_parameters(base, 101) == parameters
    total = backbone_macs(base) + head_macs(base, 101) + method.added_macs(deployed=True)
    assert round(total / 1e9, 3) == gmacs


def test_parameters_of_table_6():
    base = SIZES["vit-base"]
    assert Apt(base, 600).parameter_count() + head_parameters(base, 101) == 1_015_205
    assert Apt(base, 400).parameter_count() - Apt(base, 400, reparam="none").parameter_count() == 9_600
