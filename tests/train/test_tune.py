"""train.tune from the command line: what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apt_edge.backbone.checkpoints import freeze, load_backbone, save_backbone
from apt_edge.backbone.vit import Vit
from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, VideoError
from apt_edge.pack import PromptPack
from tests.conftest import TINY
from tests.train.conftest import LABELS, Task
from train.advice import warning
from train.devices import spare_cores
from train.evaluate import main as evaluate_main
from train.recipe import Recipe
from train.tune import build_model, default_workers, main, tune

FILES = {
    *("recipe.toml", "environment.json", "metrics.jsonl", "tensorboard", "curves.png", "confusion.png"),
    *("pack.safetensors", "method.safetensors", "evaluation.json", "unreadable.json"),
    *("predictions.jsonl", "per_class.csv", "per_class.png"),
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train.tune", *map(str, arguments)])
    main()


@pytest.mark.parametrize(
    "method", ["{name='apt', tokens=6, start=1}", "{name='vpt-deep', tokens=3}", "{name='linear'}"]
)
def test_run_folder_is_whole_and_agrees_with_training(
    task: Task, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run(monkeypatch, task.path, "--set", f"method={method}", "--set", "optim.epochs=3", "--out", out, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation == printed
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert evaluation["accuracy"] == records[-1]["val_accuracy"]
    assert evaluation["epochs"] == len(records) == 3
    assert evaluation["clips"] == 12
    recipe = load_toml(out / "recipe.toml", Recipe)
    model = build_model(recipe, 3)
    assert evaluation["trainable_parameters"] == model.trainable_parameters()
    model.method.load_state_dict(load_file(out / "method.safetensors"))
    pack = PromptPack.load(out / "pack.safetensors")
    assert pack.labels == ("red", "green", "blue")
    assert pack.clip == recipe.clip.spec()
    for block, extra in model.method.fold(model.vit).items():
        assert torch.equal(extra.key[0], torch.from_numpy(pack.kv[block].key))


def test_same_recipe_gives_the_same_pack_and_replaces_the_run(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe("optim.epochs=2")
    tune(recipe, tmp_path / "run")
    first = (tmp_path / "run" / "pack.safetensors").read_bytes()
    (tmp_path / "run" / "export").mkdir()  # of the old pack
    tune(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "pack.safetensors").read_bytes() == first
    assert not (tmp_path / "run" / "export").exists()


def test_interrupted_run_is_kept_and_resumed(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = task.recipe("optim.epochs=2"), tmp_path / "run"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("train.tune.save_curves", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, out)
    with pytest.raises(ConfigError, match="holds an interrupted run"):
        tune(recipe, out)
    result = tune(recipe, out, resume=True)
    tune(recipe, tmp_path / "whole")
    assert result["epochs"] == 2
    packs = [(folder / "pack.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert packs[0] == packs[1]


def test_failed_run_leaves_the_finished_one_alone(task: Task, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tune(task.recipe("optim.epochs=1"), out)
    before = (out / "evaluation.json").read_bytes()
    broken = task.folder / "broken.csv"
    broken.write_text("gone.mp4 0\nlabels.txt 1\n", encoding="utf-8")
    with pytest.raises(VideoError, match=r"no clip of the training list can be read\n.*gone\.mp4"):
        tune(task.recipe(f"data.train={broken.as_posix()}", "optim.batch=2"), out)
    assert (out / "evaluation.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cache.max_gb=0.000001"], r"2 views of 24 clips would take 0.00 GB.*\n.*augment.views = 0"),
        (["clip.frames=8"], r"set clip.frames = 4 and clip.size = 32"),
        (["method.start=1", "method.end=2"], "blocks 1 to 2 are not blocks of this backbone"),
    ],
)
def test_impossible_recipes_are_refused_before_anything_is_written(
    task: Task, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(task.recipe(*overrides), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_replaced(task: Task, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        tune(task.recipe("optim.epochs=1"), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_class_without_a_name_is_refused(task: Task, tmp_path: Path) -> None:
    wrong = task.folder / "wrong.csv"
    wrong.write_text("train-0-0.mp4 0\ntrain-1-0.mp4 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"class 3"):
        tune(task.recipe(f"data.val={wrong.as_posix()}"), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "mine", "cause"),
    [
        (["optim.head_base_lr=0.03"], {}, "head's rate 0.000937 is too small"),
        (["optim.base_lr=0.32"], {}, "the rate 0.01 (optim.base_lr * batch / 256) is too small"),
        ([], {"train_loss": 1.0, "best_train_loss": 0.5}, "the rate 0.1 (optim.base_lr * batch / 256) is too large"),
        ([], {"train_loss": 0.2}, "generalises worse"),
        ([], {}, "has not fitted the training clips"),
    ],
)
def test_ending_below_the_probe_names_a_cause(
    task: Task, overrides: list[str], mine: dict[str, float], cause: str
) -> None:
    result = {"accuracy": 0.4, "train_loss": 0.9, "best_train_loss": 0.9} | mine
    other = {"recipe": "probe", "accuracy": 0.5, "train_loss": 0.6, "best_train_loss": 0.6}
    text = warning(task.recipe(*overrides), result, other)
    assert "tiny ends at 40.0%, below probe with 50.0%" in text
    assert cause in text
    assert warning(task.recipe(*overrides), result | {"accuracy": 0.5}, other) == ""


def test_compare_warns_on_stderr(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    best = {"recipe": "probe", "accuracy": 1.01, "train_loss": 0.1, "best_train_loss": 0.1}
    (probe / "evaluation.json").write_text(json.dumps(best), encoding="utf-8")
    run(monkeypatch, task.path, "--set", "optim.epochs=1", "--out", tmp_path / "run", "--compare", probe)
    assert "warning: tiny ends at" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="there is no evaluation at"):
        run(monkeypatch, task.path, "--compare", tmp_path / "absent")


def test_unreadable_clips_are_listed_and_counted(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "run", ["--set", "optim.epochs=1", "--set", "test={clips = 2, crops = 3}"]
    for part, bad in (("train", 2), ("val", 3)):
        lines = (task.folder / f"{part}.csv").read_text(encoding="utf-8").splitlines()
        lines = [f"{task.folder}/{'gone-' if number < bad else ''}{line}" for number, line in enumerate(lines)]
        (tmp_path / f"{part}.csv").write_text("\n".join(lines), encoding="utf-8")
        settings += ["--set", f"data.{part}={(tmp_path / f'{part}.csv').as_posix()}"]
    results = []
    for more in ([], ["--skip-bad"]):
        run(monkeypatch, task.path, *settings, "--out", out, "--workers", 0, "--json", *more)
        printed = capsys.readouterr()
        results.append(json.loads(printed.out))
        assert printed.err.count("gone-train-0-0.mp4") == 1
        listed = json.loads((out / "unreadable.json").read_text(encoding="utf-8"))
        names = {part: [Path(row["path"]).name for row in rows] for part, rows in listed.items()}
        assert names == {
            "train": ["gone-train-0-0.mp4", "gone-train-1-0.mp4"],
            "val": ["gone-val-0-0.mp4", "gone-val-1-0.mp4", "gone-val-2-0.mp4"],
        }
        assert all("does not exist" in row["reason"] for rows in listed.values() for row in rows)
        assert PromptPack.load(out / "pack.safetensors").training["views"] == "2x3"
    wrong, skipped = results
    for result in results:
        assert (result["unreadable"], result["unreadable_training"], result["views"]) == (3, 2, "2x3")
    assert (wrong["clips"], skipped["clips"]) == (12, 9)
    assert skipped["accuracy"] == pytest.approx(wrong["accuracy"] * 12 / 9)


def test_a_folder_is_all_that_is_said_of_the_data(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, name in (("train", "train"), ("val", "val")):
        for label, colour in enumerate(LABELS):
            folder = tmp_path / "data" / part / colour
            folder.mkdir(parents=True)
            for file in task.folder.glob(f"{name}-{label}-*.mp4"):
                (folder / file.name).symlink_to(file)
    out = tmp_path / "run"
    run(monkeypatch, task.path, "--data", tmp_path / "data", "--set", "optim.epochs=1", "--out", out, "--json")
    result = json.loads(capsys.readouterr().out)
    assert (result["clips"], result["unreadable"], result["unreadable_training"]) == (12, 0, 0)
    assert set(result["per_class"]) == set(LABELS)
    recipe = load_toml(out / "recipe.toml", Recipe)
    assert recipe.data.train == recipe.data.val == str(tmp_path / "data")
    assert recipe.data.labels is None


def test_a_pack_says_how_its_videos_were_read(task: Task, tmp_path: Path) -> None:
    tune(task.recipe("optim.epochs=1", "data.split=2", "test.crops=3"), tmp_path / "run")
    training = PromptPack.load(tmp_path / "run" / "pack.safetensors").training
    assert (training["views"], training["split"], training["decoder"]) == ("1x3", 2, "pyav")
    assert not {"format", "family", "form"} & training.keys()
    tune(task.recipe("optim.epochs=1", "data.format=videomae"), tmp_path / "run")
    assert PromptPack.load(tmp_path / "run" / "pack.safetensors").training["format"] == "videomae"


def test_training_on_the_validation_videos_is_refused_or_said(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (task.folder / "train.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "val.csv").write_text("\n".join(f"{task.folder}/{line}" for line in lines), encoding="utf-8")
    val = f"data.val={(tmp_path / 'val.csv').as_posix()}"
    for setting in (val, f"data.val={task.folder.as_posix()}/train.csv"):
        with pytest.raises(ConfigError, match="training and validation are the same 24 videos"):
            tune(task.recipe(setting), tmp_path / "run")
    others = (task.folder / "val.csv").read_text(encoding="utf-8").splitlines()
    lines = [f"{task.folder}/{line}" for line in (*others, *lines[:3])]
    (tmp_path / "val.csv").write_text("\n".join(lines), encoding="utf-8")
    tune(task.recipe(val, "optim.epochs=1"), tmp_path / "run")
    said = capsys.readouterr().err
    assert "warning: 3 of 15 validation videos are trained on too, such as" in said
    assert "train-0-0.mp4" in said


def test_a_wrong_root_is_told_before_anything_is_computed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "val.csv").write_text("\n".join(f"gone/{n}.mp4 {n % 3}" for n in range(500)), encoding="utf-8")
    monkeypatch.setattr("train.tune.build_model", None)
    with pytest.raises(VideoError, match=r"none of the 500 validation videos is there\n.*gone/0\.mp4\n.*data\.root"):
        tune(task.recipe(f"data.val={(tmp_path / 'val.csv').as_posix()}"), tmp_path / "run")


@pytest.mark.parametrize("method", ["{name='apt', tokens=4}", "{name='full', layer_decay=1.0}"])
def test_the_backbone_is_loaded_once(
    task: Task, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []

    def load(name: str) -> Vit:
        loaded.append(name)
        return load_backbone(name)

    monkeypatch.setattr("train.tune.load_backbone", load)
    recipe = task.recipe(f"method={method}", "optim.epochs=2", "optim.base_lr=0.3", "augment.views=0")
    result = tune(recipe, tmp_path / "run")
    assert loaded == [recipe.backbone]
    out = tmp_path / "evaluation" / "evaluation.json"
    pack = tmp_path / "run" / "pack.safetensors"
    with monkeypatch.context() as patch:
        lists = ["--list", str(task.folder / "val.csv"), "--workers", "0", "--out", str(out), "--json"]
        patch.setattr(sys, "argv", ["train.evaluate", str(pack), *lists])
        evaluate_main()
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["accuracy"]
    assert (tmp_path / "run" / "predictions.jsonl").read_text() == (out.parent / "predictions.jsonl").read_text()


def test_a_clip_backbone_is_named_and_its_colours_are_asked_for(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_backbone(tmp_path / "clip.safetensors", freeze(Vit(replace(TINY, family="clip", eps=1e-5))))
    settings = ["optim.epochs=1", f"backbone={(tmp_path / 'clip.safetensors').as_posix()}"]
    tune(task.recipe(*settings), tmp_path / "run")
    said = capsys.readouterr().err
    asked = re.findall(r"--set '(clip\.(?:mean|std)=[^']*)'", said)
    assert len(asked) == 2
    tune(task.recipe(*settings, *asked), tmp_path / "run")
    assert "colours" not in capsys.readouterr().err
    pack = PromptPack.load(tmp_path / "run" / "pack.safetensors")
    assert (pack.training["family"], pack.training["form"]) == ("clip", "joint, apt-edge's own definition")
    assert pack.clip.mean == (0.48145466, 0.4578275, 0.40821073)
    tune(task.recipe("optim.epochs=1"), tmp_path / "run")
    assert "colours" not in capsys.readouterr().err


def test_names_that_are_not_utf8(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        for label, colour in enumerate(LABELS):
            folder = tmp_path / "data" / part / colour
            folder.mkdir(parents=True)
            for number, file in enumerate(task.folder.glob(f"{part}-{label}-*.mp4")):
                (folder / os.fsdecode(b"f\xfcr-%d.mp4" % number)).symlink_to(file)
            (folder / os.fsdecode(b"kaputt-\xfc.mp4")).write_bytes(b"nothing")
    out = tmp_path / "run"
    settings = ["--data", tmp_path / "data", "--set", "optim.epochs=1", "--out", out, "--json"]
    run(monkeypatch, task.path, *settings, "--set", "augment.views=0", "--workers", 0)
    result = json.loads(capsys.readouterr().out)
    assert (result["clips"], result["unreadable"], result["unreadable_training"]) == (15, 3, 3)
    for rows in json.loads((out / "unreadable.json").read_text(encoding="utf-8")).values():
        assert [Path(row["path"]).name for row in rows] == [r"kaputt-\xfc.mp4"] * 3
    assert r"kaputt-\xfc.mp4" in (out / "predictions.jsonl").read_text(encoding="utf-8").replace("\\\\", "\\")
    (tmp_path / os.fsdecode(b"caf\xe9")).symlink_to(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"not UTF-8\n.*caf\\xe9"):
        run(monkeypatch, task.path, "--data", tmp_path / os.fsdecode(b"caf\xe9"), "--out", out)


def test_help_says_what_overrides_what(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "none where views are kept" in said
    assert "clears data.labels" in said


def test_workers_decode_ahead_where_clips_are_drawn_afresh(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_workers(task.recipe()) == 0
    recipes = Path(__file__).parents[2] / "train" / "recipes"
    demos = [load_toml(recipes / f"demo-{method}.toml", Recipe) for method in ("apt", "linear", "vpt-deep")]
    assert [default_workers(recipe) for recipe in demos] == [0, 0, 0]
    fresh = task.recipe("augment.views=0")
    assert default_workers(fresh) == default_workers(task.recipe("cache.use=false")) == spare_cores()
    monkeypatch.setattr("train.devices.usable_cores", lambda: 16)
    assert default_workers(fresh) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers(fresh) == 4
    monkeypatch.setattr("train.devices.usable_cores", lambda: 2)
    assert default_workers(fresh) == 1
