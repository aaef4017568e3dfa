"""What holds for every method: it learns, its closed forms are the real counts, and its refusals say what to do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from apt_edge.backbone.folded import FoldedModel
from apt_edge.errors import ConfigError
from apt_edge.methods import METHODS
from apt_edge.methods.cost import backbone_macs, head_macs, head_parameters
from apt_edge.methods.vpt_deep import VptDeepTokens
from tests.apt_edge.methods.conftest import LABELS, SMALL, fvcore_macs, rebuilt, tuned
from tests.conftest import tiny_model

CASES = [
    ("apt", {"tokens": 4}),
    ("apt", {"tokens": 4, "start": 1, "end": 1, "reparam": "none"}),
    ("apt", {"tokens": 4, "start": 1, "reparam": "softplus"}),
    ("linear", {}),
    ("linear", {"head": "bn_linear"}),
    ("full", {}),
    ("vpt-shallow", {"tokens": 4, "dropout": 0.1}),
    ("vpt-deep", {"tokens": 4, "start": 1}),
    ("vpt-deep", {"tokens": 4, "start": 1, "pool": "all", "dropout": 0.1}),
    ("adaptformer", {"r": 8}),
    ("adaptformer", {"r": 8, "start": 1, "end": 1, "dropout": 0.1}),
    ("st-adapter", {"width": 24}),
    ("st-adapter", {"width": 24, "places": "both", "start": 2}),
    ("aim", {}),
    ("aim", {"ratio": 0.125, "scale": 1.0, "start": 1}),
    ("lora", {"rank": 4}),
    ("lora", {"rank": 4, "start": 1, "end": 1}),
]
every_case = pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda value: str(value))


def test_every_method_is_a_case():
    assert {name for name, _ in CASES} == set(METHODS)


@every_case
def test_every_trained_tensor_has_a_gradient_after_a_validation_pass(vit, clips, name, settings):
    model = tuned(vit, name, **settings)
    labels = torch.tensor([0, 1, 2])
    if settings.get("reparam", "max1") == "max1" and name == "apt":
        model.method.scale.data.fill_(1.5)
    with torch.no_grad():
        model.eval()(clips)
        model.method.deploy(model.vit)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(clips), labels).backward()
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, parameter_name
                assert parameter.grad.abs().sum() > 0, parameter_name
            else:
                assert parameter.grad is None, parameter_name
        optimizer.step()


@every_case
def test_below_the_first_block_nothing_is_kept_for_a_backward_pass(vit, clips, name, settings):
    model = tuned(vit, name, **settings)
    first = model.method.blocks.start if model.method.blocks else SMALL.depth
    assert model.method.first_block == first
    kept = model.prefix(clips)
    assert not kept.requires_grad
    assert tuple(kept.shape[1:]) == model.prefix_shape()
    assert torch.allclose(model(kept, from_prefix=True), model(clips), atol=1e-5)
    # The graph reaches the trained tensors and, in a frozen backbone, no weight.
    found, edge = set(), [model(clips).sum().grad_fn]
    while edge:
        node = edge.pop()
        if node is not None and node not in found:
            found.add(node)
            edge += [parent for parent, _ in node.next_functions]
    leaves = {id(node.variable) for node in found if hasattr(node, "variable")}
    assert leaves == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("name", "settings"), [case for case in CASES if "tokens" not in case[1]])
def test_without_prompts_training_starts_at_the_untouched_backbone(vit, clips, name, settings):
    method = METHODS[name](vit.config, **settings).eval()
    tokens = vit.embed(clips)
    below = vit.run_blocks(tokens, stop=method.first_block)
    assert (method.run(vit, below) - vit.run_blocks(tokens)).abs().max() <= 1e-5


@every_case
def test_parameters_are_counted_by_the_closed_form(vit, name, settings):
    model = tuned(vit, name, **settings)
    head = head_parameters(SMALL, len(LABELS))
    assert model.method.parameter_count() == model.trainable_parameters() - head
    assert head == sum(parameter.numel() for parameter in model.head.parameters())


@every_case
def test_macs_are_what_fvcore_counts_on_the_modules(vit, name, settings):
    model = tuned(vit, name, **{key: value for key, value in settings.items() if key != "head"})
    rest = backbone_macs(SMALL) + head_macs(SMALL, len(LABELS))
    published = VptDeepTokens(model.vit, model.method, model.head) if name == "vpt-deep" else model
    assert fvcore_macs(published, SMALL) == rest + model.method.added_macs(deployed=False)
    assert fvcore_macs(rebuilt(vit, model), SMALL) == rest + model.method.added_macs(deployed=True)


@every_case
def test_a_method_that_cannot_fold_says_why_and_what_is_exported(vit, name, settings):
    method = METHODS[name](vit.config, **settings)
    assert method.folds == (name in ("apt", "linear") or (name == "vpt-deep" and "pool" not in settings))
    if method.folds:
        assert len(method.fold(vit)) == len(method.blocks)
        return
    with pytest.raises(ConfigError, match="does not fold") as raised:
        method.fold(vit)
    assert method.reason in str(raised.value)
    assert method.deployment in str(raised.value)
    assert method.deploy(vit).form


@every_case
def test_what_is_deployed_does_not_change_when_training_goes_on(vit, name, settings):
    model = tuned(vit, name, **settings)
    deployed = model.method.deploy(model.vit)
    tensors = [*deployed.changes.values(), *(part for kv in deployed.kv.values() for part in kv[:2])]
    before = [tensor.clone() for tensor in tensors]
    for parameter in model.parameters():
        parameter.data.add_(1)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("name", ["apt", "vpt-deep", "adaptformer", "st-adapter", "aim", "lora"])
@pytest.mark.parametrize("settings", [{"start": 3}, {"start": 1, "end": 0}, {"end": 7}, {"start": -1}])
def test_blocks_that_do_not_exist_are_refused(name, settings):
    needed = {"tokens": 4} if name in ("apt", "vpt-deep") else {}
    with pytest.raises(ConfigError, match="block"):
        METHODS[name](SMALL, **needed, **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("apt", {"tokens": 0}),
        ("vpt-deep", {"tokens": 0}),
        ("vpt-shallow", {"tokens": 0}),
        ("adaptformer", {"r": 0}),
        ("st-adapter", {"width": 0}),
        ("aim", {"ratio": 0.001}),
        ("lora", {"rank": 0}),
        ("full", {"layer_decay": 0.0}),
        ("full", {"drop_path": 1.0}),
        ("vpt-deep", {"tokens": 4, "pool": "all", "end": 1}),
    ],
)
def test_impossible_settings_are_refused(name, settings):
    with pytest.raises(ConfigError):
        METHODS[name](SMALL, **settings)


def test_every_form_works_without_a_pack_too(tiny_vit, tiny_clips):
    """`FoldedModel` takes what `deploy` gives: no method needs a second way to the device."""
    clip = torch.from_numpy(tiny_clips)
    for name, settings in CASES:
        if settings.get("start", 0) < 2 and name != "full":
            model = tiny_model(tiny_vit, name, **settings)
            assert isinstance(rebuilt(tiny_vit, model), FoldedModel)
            assert torch.allclose(rebuilt(tiny_vit, model)(clip), model(clip), atol=1e-4)
