"""train.league from the command line: its clips, its table and plot, and the numbers behind them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError
from apt_edge.methods.cost import backbone_macs, head_macs
from apt_edge.methods.tuned import TunedModel
from tests.conftest import TINY
from tests.train.conftest import Task
from train.league import League, league_runs, main
from train.recipe import Recipe
from train.tune import build_model

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "train" / "recipes" / "demo-league.toml"

PAGE = """
title = "Tiny league"
steps_against = "apt-4"
recipe = "{recipe}"
seeds = [2]
[clips]
folder = "{folder}/clips"
train = 16
val = 16
[common]
optim.epochs = 1
[contenders.linear]
method.name = "linear"
[contenders.apt-4]
method = {{ name = "apt", tokens = 4, start = 1 }}
optim.base_lr = 1.0
"""


@pytest.mark.slow
def test_a_league_is_played_once_and_told_in_full(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out, published = tmp_path / "tiny-league.toml", tmp_path / "runs", tmp_path / "published"
    page.write_text(PAGE.format(recipe=task.path.as_posix(), folder=tmp_path.as_posix()), encoding="utf-8")
    arguments = ["train.league", str(page), "--out", str(out), "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    table = capsys.readouterr().out
    assert (tmp_path / "clips-2" / "val.csv").is_file()
    results = json.loads((out / "league.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in results["rows"]] == ["linear", "apt-4"]
    for row in results["rows"]:
        folder = out / f"{row['method']}-seed-2"
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        recipe = load_toml(folder / "recipe.toml", Recipe)
        model = build_model(recipe, 16)
        assert evaluation["clips"] == 16
        assert (recipe.seed, recipe.optim.epochs) == (2, 1)
        assert recipe.data.train == f"{tmp_path}/clips-2/train.csv"
        assert row["accuracy"] == evaluation["accuracy"] == row["accuracies"]["2"]
        assert row["trainable_parameters"] == evaluation["trainable_parameters"] == model.trainable_parameters()
        assert row["gmacs"] == gmacs(model)
        assert row["pack_kb"] == (folder / "pack.safetensors").stat().st_size / 1000
        assert row["environment"]["packages"]["torch"]
        assert row["recipe"] == recipe.model_dump(mode="json")
        assert f"{row['accuracy']:.1%}" in table
        assert f"{row['trainable_parameters']:,}" in table
    linear, apt = results["rows"]
    assert apt["step_ratio"] == apt["step_ratio_low"] == apt["step_ratio_high"] == 1
    assert 0 < linear["step_ratio_low"] <= linear["step_ratio"] <= linear["step_ratio_high"]
    assert 0 < linear["peak_mb"] < apt["peak_mb"]
    assert f"{apt['step_ms']:.4g}" in table
    assert linear["gmacs"] < apt["gmacs"]
    assert apt["recipe"]["method"]["tokens"] == 4
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in [*out.rglob("evaluation.json"), out / "steps.json"]}
    monkeypatch.setattr(sys, "argv", [*arguments, "--publish", str(published)])
    main()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name for path in published.iterdir()} == {"league.json", "league.md", "accuracy.png"}
    assert (published / "league.md").read_text(encoding="utf-8") == table


def gmacs(model: TunedModel) -> float:
    return (backbone_macs(TINY) + model.method.added_macs(True) + head_macs(TINY, 16)) / 1e9


def test_the_baseline_is_a_contender(tmp_path: Path) -> None:
    path = tmp_path / "league.toml"
    path.write_text(PAGE.format(recipe="r", folder="f").replace("[contenders.linear]", "[contenders.probe]"))
    with pytest.raises(ConfigError, match="the reference linear is none of probe, apt-4"):
        load_toml(path, League)


def test_the_shipped_league_is_fair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same data, clips, views, order and head for all; only the method, its rates and the probe's epochs differ."""
    monkeypatch.chdir(ROOT)
    league = load_toml(DEMO, League)
    assert len(league.seeds) >= 3
    runs = league_runs(league, tmp_path)
    assert len(runs) >= 8
    for seed in league.seeds:
        recipes = [run.resolve() for mine in runs.values() for run in mine if run.seed == seed]
        for recipe in recipes:
            assert (recipe.seed, recipe.data, recipe.clip, recipe.augment, recipe.backbone) == (
                (seed, recipes[0].data, recipes[0].clip, recipes[0].augment, recipes[0].backbone)
            )
            assert recipe.optim.batch == recipes[0].optim.batch
            if recipe.method["name"] != "linear":
                assert recipe.optim.epochs == recipes[-1].optim.epochs
