"""Every method folds exactly, and every prompt learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError
from apt_edge.methods import METHODS, Apt, VptDeep
from apt_edge.methods.tuned import TunedModel
from apt_edge.methods.vpt_deep import VptDeepTokens
from tests.conftest import TINY, tiny_model

RANGES = [(0, None), (0, 0), (1, 1)]


def double(model: TunedModel) -> TunedModel:
    model = model.double()
    model.vit.positions = model.vit.positions.double()
    return model


@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5, None])
def test_apt_folds_without_any_difference(tiny_vit, tiny_clips, start, end, scale):
    model = double(tiny_model(tiny_vit, "apt", tokens=6, start=start, end=end, reparam="none" if scale is None else "max1"))
    clip = torch.from_numpy(tiny_clips).double()
    if scale is not None:
        model.method.scale.data.fill_(scale)
    constants = model.method.fold(model.vit)
    assert sorted(constants) == list(range(start, (end if end is not None else 1) + 1))
    assert (FoldedModel(model.vit, model.head, constants)(clip) - model(clip)).abs().max() == 0
    # The definition once more, from the paper: a scale below 1 counts as 1.
    factor = max(scale or 1.0, 1.0)
    assert torch.equal(constants[start].key[0, 0], model.method.key[0] * factor)
    assert torch.equal(constants[start].value[0, 0], model.method.value[0] * factor)


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_vpt_deep_folds_to_the_published_form(tiny_vit, tiny_clips, start, end):
    model = double(tiny_model(tiny_vit, "vpt-deep", tokens=6, start=start, end=end))
    clip = torch.from_numpy(tiny_clips).double()
    published = VptDeepTokens(model.vit, model.method, model.head)(clip)
    folded = FoldedModel(model.vit, model.head, model.method.fold(model.vit))(clip)
    assert published.abs().max() > 0.1
    assert (folded - published).abs().max() <= 1e-12
    assert (model(clip) - published).abs().max() <= 1e-12
    wrong = model.method.fold(model.vit)
    wrong[start].value.mul_(1.01)
    assert (FoldedModel(model.vit, model.head, wrong)(clip) - published).abs().max() > 1e-6


def test_folding_switches_dropout_off_and_training_mode_back_on(tiny_vit):
    method = Apt(TINY, tokens=50, dropout=0.5).train()
    first, second = method.fold(tiny_vit), method.fold(tiny_vit)
    assert torch.equal(first[0].key, second[0].key)
    assert (first[0].key != 0).all()
    assert method.training
    assert (method.extra(tiny_vit)[0].key == 0).any()


@pytest.mark.parametrize(("name", "settings"), [("apt", {"tokens": 4}), ("vpt-deep", {"tokens": 4}), ("linear", {})])
def test_every_trainable_tensor_has_a_gradient_after_a_validation_pass(tiny_vit, tiny_clips, name, settings):
    model = tiny_model(tiny_vit, name, **settings)
    clip, labels = torch.from_numpy(tiny_clips), torch.tensor([0, 1, 2, 3])
    if name == "apt":
        model.method.scale.data.fill_(1.5)
    with torch.no_grad():
        model.eval()(clip)
        model.method.fold(model.vit)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(clip), labels).backward()
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, parameter_name
                rows = parameter.grad.flatten(1) if parameter.grad.dim() > 1 else parameter.grad[None]
                assert (rows.abs().sum(1) > 0).all(), parameter_name
            else:
                assert parameter.grad is None, parameter_name
        optimizer.step()


def test_scale_gradient_is_the_published_one(tiny_vit):
    method = Apt(TINY, tokens=3, start=0, end=0, dropout=0.0)
    method.scale.data[0, 0] = torch.tensor([0.5, 1.0, 2.0])
    method.extra(tiny_vit)[0].key.sum().backward()
    factors = method.scale.grad[0, 0] / method.key.detach()[0].sum(1)
    assert torch.allclose(factors, torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(("size", "bound"), [("vit-small", 0.084921), ("vit-base", 0.084921)])
def test_apt_initialisation(size, bound):
    torch.manual_seed(0)
    method = Apt(SIZES[size], tokens=400)
    assert method.key.detach().abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert method.key.detach().std().item() == pytest.approx(bound / 3**0.5, rel=1e-2)
    assert not torch.equal(method.key, method.value)
    assert (method.scale == 1).all()


def test_vpt_initialisation():
    method = VptDeep(SIZES["vit-base"], tokens=5)
    assert method.prompts.detach().abs().max().item() == pytest.approx((6 / (768 * 6)) ** 0.5, rel=1e-2)


@pytest.mark.parametrize("method", ["apt", "vpt-deep"])
@pytest.mark.parametrize(
    "settings", [{"tokens": 0}, {"tokens": 4, "start": 2}, {"tokens": 4, "start": 1, "end": 0}, {"tokens": 4, "end": 7}]
)
def test_impossible_settings_are_refused(method, settings):
    with pytest.raises(ConfigError):
        METHODS[method](TINY, **settings)


def test_cached_prefix_gives_the_same_logits(tiny_vit, tiny_clips):
    clip = torch.from_numpy(tiny_clips)
    for name, settings in [("apt", {"tokens": 4, "start": 1}), ("linear", {})]:
        model = tiny_model(tiny_vit, name, **settings)
        assert torch.allclose(model(model.prefix(clip), from_prefix=True), model(clip), atol=1e-6)
        assert not model.prefix(clip).requires_grad
