"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import pytest

from tests.train.conftest import Task
from train.engine.optim import lr_factor, parameter_groups
from train.tune import build_model


def test_schedule_starts_at_zero_peaks_and_ends_at_the_floor() -> None:
    factors = [lr_factor(step, steps=110, warmup_steps=10, min_ratio=0.1) for step in range(111)]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)


@pytest.mark.parametrize("parity", [False, True])
def test_only_matrices_decay_and_scales_on_request(task: Task, parity: bool) -> None:
    recipe = task.recipe(f"optim.official_parity={str(parity).lower()}", "optim.weight_decay=0.5")
    model = build_model(recipe, 3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, rates = set(), {}
    for group in parameter_groups(model, recipe.optim):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            rates[names[id(parameter)]] = group["peak_lr"]
            if group["weight_decay"] == 0.5:
                decayed.add(names[id(parameter)])
    assert decayed == {"method.key", "method.value", "head.linear.weight"} | ({"method.scale"} if parity else set())
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.05)} == {
        *("head.norm.weight", "head.norm.bias", "head.linear.weight", "head.linear.bias"),
    }
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.1)} == {
        "method.key",
        "method.value",
        "method.scale",
    }
    assert len(rates) == 7


def test_layer_decay_reaches_the_groups(task: Task) -> None:
    recipe = task.recipe("method={name='full', layer_decay=0.5}", "optim.base_lr=32.0")
    model = build_model(recipe, 3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["peak_lr"]
        for group in parameter_groups(model, recipe.optim)
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    assert rates["vit.patch.weight"] == pytest.approx(0.125)
    assert rates["vit.blocks.0.fc1.weight"] == pytest.approx(0.25)
    assert rates["vit.blocks.1.fc1.bias"] == pytest.approx(0.5)
    assert rates["head.linear.weight"] == pytest.approx(0.05)
