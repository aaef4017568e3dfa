"""Many runs: what is made, what is kept, what is said of those that fail, and what seeds say."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError
from tests.train.conftest import Task
from train.comparison.campaign import Campaign, RunsFailed, raise_failures, run_all, set_strings
from train.comparison.seeds import mean_and_spread, paired_difference
from train.recipe import Recipe


def campaign(task: Task) -> Campaign:
    return Campaign(title="tiny", recipe=str(task.path), seeds=[0])


def test_failures_stop_nothing_and_finished_runs_are_kept(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {"optim": {"epochs": 1}}
    runs = [
        campaign(task).run(tmp_path, "misspelt", 0, quick, {"optim.epoch": 3}),
        campaign(task).run(tmp_path, "no-such-block", 0, quick, {"method.start": 7}),
        campaign(task).run(tmp_path, "good", 1, quick),
    ]
    outcomes = run_all(runs, jobs=2)
    assert [outcome.run for outcome in outcomes] == runs
    misspelt, no_block, good = outcomes
    assert misspelt.evaluation is no_block.evaluation is None
    assert "did you mean epochs?" in misspelt.error
    assert "block 1 lies before the first one 7" in no_block.error
    assert no_block.error.split(":")[0] in runs[1].log.read_text(encoding="utf-8")
    assert f"no-such-block failed: {no_block.error}" in capsys.readouterr().err
    assert good.evaluation
    assert good.evaluation["recipe"] == "good"
    assert load_toml(runs[2].out / "recipe.toml", Recipe).seed == 1
    with pytest.raises(RunsFailed, match="2 of 3 runs failed"):
        raise_failures(outcomes)

    written = (runs[2].out / "evaluation.json").stat().st_mtime_ns
    assert run_all(runs[2:]) == outcomes[2:]
    assert (runs[2].out / "evaluation.json").stat().st_mtime_ns == written
    raise_failures(outcomes[2:])
    assert not campaign(task).run(tmp_path, "good", 1, quick, {"method.tokens": 7}).is_finished()  # another recipe


def test_runs_do_not_share_a_folder(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share one folder"):
        run_all([campaign(task).run(tmp_path, "twice", seed) for seed in (0, 1)])
    with pytest.raises(ConfigError, match="less than one job"):
        run_all([], jobs=0)


def test_settings_arrive_as_they_are_written(task: Task, tmp_path: Path) -> None:
    table = {
        "method": {"name": "vpt-deep", "tokens": 3},
        "optim": {"epochs": 2, "weight_decay": 1e-5, "betas": [0.8, 0.9]},
        "optim.label_smoothing": 0.0,
        "augment": {"hflip": True},
    }
    texts = list(set_strings(table))
    assert texts[0] == 'method={name = "vpt-deep", tokens = 3}'
    recipe = campaign(task).run(tmp_path, "2024", 5, table).resolve()
    assert recipe.method["name"] == "vpt-deep"
    assert recipe.settings["tokens"] == 3
    assert (recipe.optim.epochs, recipe.optim.weight_decay, recipe.optim.betas) == (2, 1e-5, (0.8, 0.9))
    assert recipe.augment.hflip is True
    assert (recipe.name, recipe.seed) == ("2024", 5)


def test_difference_is_paired_by_seed() -> None:
    linear, apt = {0: 0.50, 1: 0.60, 2: 0.40}, {0: 0.55, 1: 0.66, 2: 0.44, 3: 0.99}
    difference = paired_difference(apt, linear)
    assert difference
    assert difference.mean == pytest.approx(0.05)
    # 5, 6 and 4 points: standard error 0.01 / sqrt(3), times Student's 4.303.
    assert difference.high - difference.mean == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert difference.mean - difference.low == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert paired_difference({0: 0.5}, linear) is None
    assert mean_and_spread([0.50, 0.60, 0.40]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert mean_and_spread([0.5]) == (0.5, None)
    assert mean_and_spread([]) == (None, None)
