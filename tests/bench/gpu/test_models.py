"""The GPU suite's models: what is shared, what stays in float32, and that tuning them tunes."""

from __future__ import annotations

import copy

import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.vit import Vit
from bench.gpu.clips import drawn_clips
from bench.gpu.models import build, cast, contenders
from bench.gpu.tuning import RATES, accuracy, tune
from bench.numbers import weights_sha256
from tests.conftest import TINY, TINY_CLIP
from train.recipe import Optim


def test_contenders_share_one_backbone_and_differ_in_their_prompts(tiny_vit, tiny_clips):
    built = {contender.name: build(tiny_vit, contender) for contender in contenders([6])}
    assert all(model.module.vit is tiny_vit for model in built.values())
    logits = {name: model.module(torch.from_numpy(tiny_clips)) for name, model in built.items()}
    assert torch.allclose(logits["VPT-6 folded"], logits["VPT-6 as tokens"], atol=1e-5)
    assert not torch.allclose(logits["none"], logits["APT-6"], atol=1e-3)
    assert not torch.allclose(logits["none"], logits["VPT-6 folded"], atol=1e-3)
    assert len({model.sha256 for model in built.values()}) == 4


def test_the_same_seed_builds_the_same_model(tiny_vit):
    state = torch.get_rng_state()
    for contender in contenders([6]):
        assert build(tiny_vit, contender).sha256 == build(tiny_vit, contender).sha256
    assert torch.equal(state, torch.get_rng_state())


def test_half_precision_spares_the_head(tiny_vit, tiny_clips):
    clips = torch.from_numpy(tiny_clips)
    for contender in contenders([6]):
        module = build(tiny_vit, contender).module
        expected = module(clips)
        half = cast(copy.deepcopy(module), torch.float16)
        types = {name.split(".")[0]: tensor.dtype for name, tensor in half.state_dict().items()}
        assert types.pop("head") == torch.float32
        assert set(types.values()) == {torch.float16}
        logits = half(clips.half())
        assert logits.dtype == torch.float32
        assert 0 < (logits - expected).abs().max() < 0.02
        assert weights_sha256(half) != weights_sha256(module)


def test_tuning_learns_what_it_is_shown():
    torch.manual_seed(0)
    vit = freeze(Vit(TINY))
    assert TINY_CLIP.size == TINY.size
    data = drawn_clips(TINY, 16, "train")
    rng = torch.get_rng_state()
    for name in RATES:
        before = accuracy(tune(vit, name, 6, 0, data, steps=0), data)
        model = tune(vit, name, 6, 0, data, steps=40)
        assert accuracy(model, data) > max(0.5, before), name
        assert not model.training
    assert torch.equal(rng, torch.get_rng_state())


def test_rates_are_those_of_the_recipes():
    for name, base in (("apt", 2.4), ("vpt-deep", 0.4)):
        recipe, own = Optim(batch=32, base_lr=base, head_base_lr=0.4), RATES[name]
        for key in ("method_lr", "head_lr", "weight_decay", "betas", "eps", "label_smoothing", "official_parity"):
            assert getattr(own, key) == getattr(recipe, key), (name, key)
