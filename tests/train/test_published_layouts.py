"""What users have on disk just works: data sets in published layouts, from check to accuracy, by their path alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from apt_edge.pack import PromptPack
from tests.apt_edge import dataset_miniatures as miniatures
from tests.apt_edge.dataset_miniatures import Miniature
from train import clips, evaluate, tune

RECIPES = Path(__file__).parents[2] / "train" / "recipes"
# Recipe, its views, the data: the four data sets, and what other tools leave behind: frames on disk, segments, folders.
TASKS: dict[str, tuple[str, str, Callable[[Path], Miniature]]] = {
    "ucf101": ("ucf101", "5x3", miniatures.ucf101),
    "hmdb51": ("hmdb51", "10x3", miniatures.hmdb51),
    "ssv2": ("ssv2", "2x3", miniatures.ssv2),
    "k400": ("k400", "5x3", miniatures.kinetics400),
    "frames": ("ucf101", "5x3", miniatures.mmaction_rawframes),
    "folders": ("k400", "5x3", miniatures.class_folders),
    "segments": ("k400", "5x3", miniatures.table_csv),
}
# The recipe as it is shipped, but as small as two steps on a processor want it.
SMALL = ("clip.size=32", "optim.epochs=1", "optim.warmup_epochs=0", "optim.accumulate=1", "optim.precision=no")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained weights as `transformers` saves them, random and small."""
    folder = tmp_path_factory.mktemp("weights") / "videomae-tiny"
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1}
    torch.manual_seed(0)
    config = VideoMAEConfig(image_size=32, num_frames=16, **sizes, **decoder, decoder_intermediate_size=64)
    VideoMAEForPreTraining(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_check_tune_and_evaluate_need_nothing_but_the_path(
    name: str, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, views, make = TASKS[name]
    data = make(tmp_path / name)

    def run(main: Callable[[], None], *arguments: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments), "--json"])
        main()
        return json.loads(capsys.readouterr().out)

    report = run(clips.main, "check", data.root)
    found = report["parts"]
    assert found["train"]["clips"] == len(data.train)
    assert found["val"]["clips"] == len(data.val)
    assert list(found["train"]["labels"]) == data.classes
    assert report["bad"] == []
    assert report["shared"] == []

    small = [flag for setting in (*SMALL, f"backbone={backbone}") for flag in ("--set", setting)]
    page, out = RECIPES / recipe / "vits-apt.toml", tmp_path / "run"
    batch = ("--set", f"optim.batch={len(data.train) // 2}", "--set", "method.tokens=4")
    tuned = run(tune.main, page, "--data", data.root, *small, *batch, "--out", out, "--workers", 0)
    assert tuned["clips"] == len(data.val)
    assert PromptPack.load(out / "pack.safetensors").labels == tuple(data.classes)
    assert len((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 1

    evaluated = run(evaluate.main, out / "pack.safetensors", "--list", data.root, "--workers", 0)
    assert evaluated["preprocessing"]["views"] == views
    assert evaluated["unreadable"] == 0
    for figure in ("clips", "accuracy", "accuracy_top5", "per_class"):
        assert evaluated[figure] == tuned[figure]
