"""Recipes: what they accept, what they refuse and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError
from tests.train.conftest import Task
from train.recipe import Recipe


def test_defaults_of_the_method_are_filled_in(task: Task) -> None:
    expected = {"name": "apt", "tokens": 6, "start": 1, "end": None, "dropout": 0.1, "reparam": "max1"}
    assert task.recipe().method == expected


OVERRIDES = [
    [],
    ["method={name='linear'}"],
    ["method.end=1", "augment.scale=[0.5, 1.0]"],
    ["""augment.mirror={'from left "to" [right]' = 'from right', plain = 'b'}""", "data.format='ucf101'"],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_resolved_recipe_reads_back_equal(task: Task, tmp_path: Path, overrides: list[str]) -> None:
    recipe = task.recipe(*overrides)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert load_toml(tmp_path / "recipe.toml", Recipe) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.bas_lr=0.1", "did you mean base_lr"),
        ("method.token=4", "apt has no setting token, did you mean tokens?"),
        ("method.colour=4", "known: tokens, start, end, dropout, reparam"),
        ("method={name='linear', tokens=4}", "linear has no setting tokens, known: head"),
        ("method.name=atp", "one of apt"),
        ("method.tokens=many", "tokens: Input should be a valid integer"),
        ("method={name='apt'}", "tokens: Field required"),
        ("method.dropout=1.0", "dropout must be at least 0 and below 1"),
        ("optim.epochs=0", "greater than or equal to 1"),
        ("optim.base_lr=-1.0", "greater than 0"),
        ("optim.warmup_epochs=9", "longer than epochs 4"),
        ("augment.scale=[0.9, 0.2]", "two rising numbers"),
        ("clip.sampling=random", "'dense' or 'segments'"),
        ("test.clips=3", "a video gives two clips, the middles of its segments and their starts, as published"),
        ("test.crops=2", "Input should be 1 or 3"),
        ("name=a/b", "should match pattern"),
    ],
)
def test_wrong_values_are_refused_with_the_remedy(task: Task, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        task.recipe(override)
