"""train.sweep from the command line: the table, the numbers behind it, and pages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError
from tests.train.conftest import Task
from train.comparison.campaign import RunsFailed
from train.sweep import Page, best_row, main, points, read_grid, read_pages

ROOT = Path(__file__).parents[2]
ABLATIONS = sorted((ROOT / "train" / "recipes" / "ablations").glob("*.toml"))

PAGE = """
title = "Dropout"
question = "Does it help?"
verdict = "It does not matter here."
recipe = "{recipe}"
seeds = [3]
[set]
optim.epochs = 2
[grid]
"method.dropout" = [0.0, 0.5, 2.0]
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train.sweep", *map(str, arguments)])
    main()


@pytest.mark.slow
def test_a_page_becomes_a_report_and_is_not_run_twice(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = tmp_path / "dropout.toml", tmp_path / "runs"
    page.write_text(PAGE.format(recipe=task.path.as_posix()), encoding="utf-8")
    with pytest.raises(RunsFailed, match="1 of 3 runs failed"):
        run(monkeypatch, page, "--out", out, "--jobs", 2)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == report.strip()
    result = json.loads((out / "dropout.json").read_text(encoding="utf-8"))
    assert [row["settings"] for row in result["rows"]] == [{"method.dropout": value} for value in (0.0, 0.5, 2.0)]
    for row, name in zip(result["rows"], ("method.dropout-0.0-seed-3", "method.dropout-0.5-seed-3"), strict=False):
        folder = out / "dropout" / name
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert row["accuracy"] == evaluation["accuracy"] == row["accuracies"]["3"]
        assert row["accuracy_spread"] is None
        assert row["train_loss"] == evaluation["train_loss"]
        assert row["loss_curve"] == pytest.approx(losses, abs=1e-4)
        assert row["epochs"] == len(losses) == 2
        assert row["failed"] == []
        assert f"{row['accuracy']:.1%}" in report
    assert result["rows"][2]["accuracy"] is None
    assert "dropout must be at least 0 and below 1" in result["rows"][2]["failed"][0]
    assert "dropout must be at least 0 and below 1" in report
    assert "One seed says nothing about noise" in report
    assert "It does not matter here." in report
    assert (out / "dropout.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in out.rglob("evaluation.json")}
    with pytest.raises(RunsFailed):
        run(monkeypatch, page, "--out", out, "--publish", tmp_path / "published", "--json")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("evaluation.json")} == before
    assert (tmp_path / "published" / "report.md").read_text(encoding="utf-8") == report
    assert json.loads(capsys.readouterr().out) == {"dropout": result}


def test_grids_of_the_command_line(task: Task, tmp_path: Path) -> None:
    assert read_grid(["a.b=1,2e-3", "c=x,true", "d=[0.8, 0.9],[0.9, 0.99]", "e=none"]) == {
        "a.b": [1, 2e-3],
        "c": ["x", True],
        "d": [[0.8, 0.9], [0.9, 0.99]],
        "e": ["none"],
    }
    page = read_pages([str(task.path)], ["method.tokens=2,4", "optim.betas=[0.8, 0.9]"], [0, 1])["tiny"]
    grid = points(page, tmp_path)
    assert [point.settings["method.tokens"] for point in grid] == [2, 4]
    assert [run.seed for run in grid[1].runs] == [0, 1]
    recipe = grid[1].runs[1].resolve()
    assert (recipe.settings["tokens"], recipe.seed, recipe.optim.betas) == (4, 1, (0.8, 0.9))
    for wrong in ("method.tokens", "=3", "method.tokens="):
        with pytest.raises(ConfigError, match="not of the form"):
            read_grid([wrong])
    with pytest.raises(ConfigError, match="one recipe"):
        read_pages(["a.toml", "b.toml"], ["x=1"], None)


def test_the_best_row_is_named_with_what_equals_it() -> None:
    rows = [
        {"settings": {"x": value}, "accuracy": sum(pair) / 2, "accuracies": dict(enumerate(pair))}
        for value, pair in {"a": (0.80, 0.90), "b": (0.81, 0.88), "c": (0.30, 0.41)}.items()
    ]
    assert best_row(rows, [0, 1]) == "Best: x = a with 85.0%. 2 seeds cannot tell it from x = b."
    assert "above 0" in best_row([rows[0], rows[2]], [0, 1])
    assert best_row([row | {"accuracy": None} for row in rows], [0, 1]) == "No run ended well."


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_shipped_pages_are_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = load_toml(path, Page)
    assert page.question
    for point in points(page, tmp_path):
        for wanted in point.runs:
            wanted.resolve()


def test_there_are_five_ablations() -> None:
    assert [path.stem for path in ABLATIONS] == ["dropout", "placement", "reparam", "tokens", "weight-decay"]
