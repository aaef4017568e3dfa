"""train.evaluate: the accuracy of a pack on a list."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import freeze, load_backbone, save_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.errors import ConfigError, PackError
from apt_edge.pack import PromptPack
from apt_edge.video.load import load_clip
from tests.conftest import TINY
from tests.train.conftest import Task
from train.evaluate import main
from train.tune import tune


@pytest.fixture(scope="module")
def tuned(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    tune(task.recipe("optim.epochs=2"), out)
    return out


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train.evaluate", *map(str, arguments)])
    main()


def test_pack_gives_the_accuracy_that_tuning_reported(
    task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation.json"
    run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "val.csv", "--out", out, "--json")
    result = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text(encoding="utf-8")) == result
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    reported = json.loads((tuned / "evaluation.json").read_text(encoding="utf-8"))
    for key in ("clips", "accuracy", "accuracy_top5", "accuracy_shuffled", "per_class"):
        assert result[key] == reported[key]


def test_figures_equal_a_count_by_hand(
    task: Task, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = task.folder / "some.csv"
    lines = (task.folder / "val.csv").read_text(encoding="utf-8").splitlines()
    some.write_text("\n".join(line for line in lines if not line.endswith(" 1")), encoding="utf-8")
    run(monkeypatch, tuned / "pack.safetensors", "--list", some, "--json")
    result = json.loads(capsys.readouterr().out)
    pack = PromptPack.load(tuned / "pack.safetensors")
    model = folded_model(pack, load_backbone(task.folder / "tiny.safetensors"))
    right: dict[str, list[bool]] = {"red": [], "blue": []}
    for line in some.read_text(encoding="utf-8").splitlines():
        file, label = line.split()
        with torch.no_grad():
            logits = model(torch.from_numpy(load_clip(task.folder / file, pack.clip))[None])
        right[pack.labels[int(label)]].append(int(logits.argmax()) == int(label))
    assert result["per_class"] == {name: np.mean(hits) for name, hits in right.items()}
    assert result["accuracy"] == np.mean(right["red"] + right["blue"])
    assert result["clips"] == 8
    assert result["accuracy_top5"] == 1.0  # three classes


def test_people_get_lines(
    task: Task, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "val.csv")
    assert "frames shuffled" in capsys.readouterr().out


def test_other_backbone_is_refused(task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_backbone(other, freeze(Vit(TINY)))
    with pytest.raises(PackError, match="do not belong together"):
        run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "val.csv", "--backbone", other)


def test_list_with_more_classes_is_refused(task: Task, tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = task.folder / "more.csv"
    wrong.write_text("val-0-0.mp4 7\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="uses class 7"):
        run(monkeypatch, tuned / "pack.safetensors", "--list", wrong)
