"""Linear probing: both heads, and the batch norm that disappears."""

from __future__ import annotations

import pytest
import torch

from apt_edge.backbone.vit import SIZES
from apt_edge.methods import Linear
from apt_edge.methods.cost import backbone_macs, head_macs, head_parameters
from apt_edge.methods.linear import BatchNormHead
from tests.apt_edge.methods.conftest import double, prove, rebuilt, tuned


def test_fold(vit, clips, tmp_path):
    prove(vit, clips, tmp_path, "linear", bound=0.0)
    prove(vit, clips, tmp_path, "linear", head="bn_linear", bound=1e-12)


def test_the_batch_norm_is_pytorchs_and_folds_into_the_classifier(vit, clips):
    model = double(tuned(vit, "linear", head="bn_linear"))
    reference = torch.nn.BatchNorm1d(64, eps=1e-6, affine=False).double()
    pooled = model.head.norm(model.vit(clips.double()).mean(1)).detach()
    for _ in range(3):
        trained = model.train()(clips.double())
        expected = model.head.linear(reference.train()(pooled))
        assert (trained - expected).abs().max() < 1e-12
    assert (model.head.mean - reference.running_mean).abs().max() < 1e-12
    assert (model.head.variance - 1).abs().max() > 0.01
    found, expected = rebuilt(vit, model.eval())(clips.double()), model(clips.double())
    assert (found - expected).abs().max() < 1e-12
    assert (expected - model.head.linear(reference.eval()(pooled))).abs().max() < 1e-12
    model.head.mean.mul_(1.1)  # the folded head before must not have been made without it
    assert (rebuilt(vit, model)(clips.double()) - found).abs().max() > 1e-6


def test_a_single_clip_can_be_trained_on(vit, clips):
    """The last batch of an epoch may hold one clip, which has no variance of its own."""
    model = tuned(vit, "linear", head="bn_linear").train()
    before = model.head.mean.clone()
    assert model(clips[:1]).isfinite().all()
    assert torch.equal(model.head.mean, before)


def test_initialisation():
    torch.manual_seed(0)
    head = BatchNormHead(768, 400)
    assert head.linear.weight.detach().std().item() == pytest.approx(0.01, rel=1e-2)
    assert (head.linear.bias == 0).all()


@pytest.mark.parametrize(("classes", "parameters"), [(101, 79_205), (51, 40_755), (174, 135_342), (400, 309_136)])
def test_parameters_and_gmacs_on_vit_base(classes, parameters):
    base = SIZES["vit-base"]
    method = Linear(base)
    assert method.parameter_count() + head_parameters(base, classes) == parameters
    total = backbone_macs(base) + head_macs(base, classes) + method.added_macs(deployed=True)
    assert total == 180_489_174_528 + (classes - 101) * 768
