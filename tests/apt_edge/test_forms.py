"""Forms of a changed backbone: tensors that do not fit are refused, whatever is wrong with them."""

from __future__ import annotations

import pytest
import torch

from apt_edge.backbone.blocks import EnteringBlock
from apt_edge.backbone.forms import FORMS, changed
from apt_edge.backbone.vit import ExtraKV
from apt_edge.errors import PackError
from tests.conftest import tiny_model

USERS = {
    "override": ("full", {}),
    "low-rank": ("lora", {"rank": 4, "start": 1}),
    "parallel": ("adaptformer", {"r": 8, "start": 1}),
    "serial": ("aim", {"start": 1}),
    "temporal": ("st-adapter", {"width": 8, "start": 1}),
    "tokens": ("vpt-shallow", {"tokens": 4}),
}
every_form = pytest.mark.parametrize("form", FORMS)


def tensors(vit, form):
    """What a real method leaves behind for that form."""
    name, settings = USERS[form]
    deployed = tiny_model(vit, name, **settings).method.deploy(vit)
    assert deployed.form == form
    return dict(deployed.changes)


@every_form
def test_the_backbone_itself_stays_as_it_is(tiny_vit, form):
    before = {name: tensor.clone() for name, tensor in tiny_vit.state_dict().items()}
    copy = changed(tiny_vit, form, {name: tensor + 1 for name, tensor in tensors(tiny_vit, form).items()})
    after = tiny_vit.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())


@every_form
def test_a_tensor_too_many_is_refused(tiny_vit, form):
    extra = "override.blocks.0.wrong" if form == "override" else "module.1.wrong.weight"
    with pytest.raises(PackError, match=f"form {form} do not fit"):
        changed(tiny_vit, form, {**tensors(tiny_vit, form), extra: torch.zeros(1)})


@every_form
def test_wrong_shapes_and_names_are_refused(tiny_vit, form):
    good = tensors(tiny_vit, form)
    for name, tensor in good.items():
        with pytest.raises(PackError, match=f"form {form} do not fit"):
            changed(tiny_vit, form, {**good, name: tensor[..., None]})
        with pytest.raises(PackError, match=f"form {form} do not fit"):
            changed(tiny_vit, form, {**good, name: torch.cat([tensor, tensor], dim=-1)})
        rest = {key: value for key, value in good.items() if key != name}
        if form != "override":  # which may replace a part of the backbone
            with pytest.raises(PackError, match=f"form {form} do not fit"):
                changed(tiny_vit, form, rest)
        for other in (name.replace(".1.", ".9."), name.replace(".1.", ".x."), f"other.{name}"):
            if other != name:
                with pytest.raises(PackError, match=f"form {form} do not fit"):
                    changed(tiny_vit, form, {**rest, other: tensor})


def test_an_unknown_form_names_the_known_ones(tiny_vit):
    with pytest.raises(PackError, match="known: override"):
        changed(tiny_vit, "sideways", {})


def test_no_form_is_the_backbone_itself(tiny_vit):
    assert changed(tiny_vit, "", {}) is tiny_vit


def test_tokens_take_no_constants_in_their_block(tiny_vit, tiny_clips):
    vit = changed(tiny_vit, "tokens", tensors(tiny_vit, "tokens"))
    assert isinstance(vit.block(0), EnteringBlock)
    constant = torch.zeros(1, 1, 2, 32)
    with pytest.raises(PackError, match="as well"):
        vit(torch.from_numpy(tiny_clips), {0: ExtraKV(constant, constant)})
