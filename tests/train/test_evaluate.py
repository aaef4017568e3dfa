"""train.evaluate: a finished pack gives the accuracy that tuning reported, from its files alone; views, bad videos."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apt_edge.backbone.checkpoints import freeze, load_backbone, save_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, PackError, VideoError
from apt_edge.pack import PromptPack
from apt_edge.video.lists import Item, read_list
from apt_edge.video.load import load_clip
from apt_edge.video.preprocess import normalise
from apt_edge.video.views import Views, load_views
from tests.conftest import TINY
from tests.train.conftest import LABELS, Task
from train.engine.data import Clips
from train.evaluate import Evaluation, describe, evaluate, main, preprocessing, save_evaluation
from train.plots import save_confusion, save_per_class
from train.scoring import Verdict, _ViewClips, normalised, write_predictions
from train.tune import tune

CPU = torch.device("cpu")
SPEC = ClipSpec(frames=4, size=32, sampling="segments")
DENSE = ClipSpec(frames=4, size=32, sampling="dense", stride=1)


@pytest.fixture(scope="module")
def tuned(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    tune(task.recipe("optim.epochs=2"), out)
    return out


@pytest.fixture(scope="module")
def model(task: Task, tuned: Path) -> FoldedModel:
    return folded_model(PromptPack.load(tuned / "pack.safetensors"), load_backbone(task.folder / "tiny.safetensors"))


@pytest.fixture
def items(task: Task) -> list[Item]:
    return read_list(task.folder / "val.csv").items


@pytest.fixture
def with_bad(items: list[Item], tmp_path: Path) -> list[Item]:
    """Twelve videos and two that cannot be read."""
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x01" * 400)
    return [items[0], Item(tmp_path / "broken.mp4", 1), *items[1:], Item(tmp_path / "missing.mp4", 2)]


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
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"evaluation.json", "predictions.jsonl", "per_class.csv", "per_class.png", "confusion.png"}
    reported = json.loads((tuned / "evaluation.json").read_text(encoding="utf-8"))
    for key in ("clips", "accuracy", "accuracy_top5", "accuracy_shuffled", "per_class", "preprocessing"):
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
    assert result["accuracy_per_class"] == np.mean([np.mean(hits) for hits in right.values()])
    assert result["clips"] == 8
    assert result["accuracy_top5"] == 1.0  # three classes


@pytest.mark.parametrize(("spec", "views"), [(DENSE, Views(5, 3)), (DENSE, Views(3, 1)), (SPEC, Views(2, 3))])
@pytest.mark.parametrize("workers", [0, 1])
def test_views_equal_a_loop_over_them(
    model: FoldedModel, items: list[Item], spec: ClipSpec, views: Views, workers: int
) -> None:
    evaluation = evaluate(model, Clips(items, spec), LABELS, CPU, workers, views)
    assert [verdict.path for verdict in evaluation.verdicts] == [item.path for item in items]
    for item, verdict in zip(items, evaluation.verdicts, strict=True):
        crops = [crop for clip in load_views(item, spec, views) for crop in clip]
        assert len(crops) == views.clips * views.crops
        with torch.no_grad():
            one_by_one = [model(torch.from_numpy(normalise(crop, spec))[None]).softmax(1)[0] for crop in crops]
        mean_K = torch.stack(one_by_one).double().mean(0)
        assert verdict.top == tuple(mean_K.argsort(descending=True).tolist())
        np.testing.assert_allclose(verdict.probabilities, mean_K.sort(descending=True).values, atol=1e-6)
    assert evaluation.to_dict()["accuracy_shuffled"] is None


def test_what_cannot_be_read_is_wrong_or_left_out(model: FoldedModel, items: list[Item], with_bad: list[Item]) -> None:
    whole = evaluate(model, Clips(items, SPEC), LABELS, CPU).to_dict()
    found = evaluate(model, Clips(with_bad, SPEC), LABELS, CPU)
    wrong, left_out = found.to_dict(), replace(found, skip_bad=True).to_dict()
    assert evaluate(model, Clips(with_bad, SPEC), LABELS, CPU, skip_bad=True).to_dict() == left_out
    assert (wrong["clips"], left_out["clips"]) == (14, 12)
    assert wrong["unreadable"] == left_out["unreadable"] == 2
    for key in ("accuracy", "accuracy_top5", "accuracy_shuffled"):
        assert left_out[key] == whole[key]
        assert wrong[key] == pytest.approx(whole[key] * 12 / 14)
    assert left_out["per_class"] == whole["per_class"]
    assert wrong["per_class"]["red"] == whole["per_class"]["red"]
    assert wrong["per_class"]["green"] == pytest.approx(whole["per_class"]["green"] * 4 / 5)
    assert (found.confusion == evaluate(model, Clips(items, SPEC), LABELS, CPU).confusion).all()
    bad = {verdict.path.name: verdict.reason for verdict in found.verdicts if verdict.reason}
    assert set(bad) == {"broken.mp4", "missing.mp4"}
    assert "Traceback" not in "".join(bad.values())


def test_a_video_that_breaks_off_is_unreadable_as_a_whole(
    model: FoldedModel, items: list[Item], tmp_path: Path
) -> None:
    for number in range(1, 21):
        Image.new("RGB", (40, 32), (number, 0, 0)).save(tmp_path / f"img_{number:05}.png")
    (tmp_path / "img_00018.png").write_bytes(b"no picture")
    clips = Clips([Item(tmp_path, 0), items[0]], DENSE)
    assert not evaluate(model, clips, LABELS, CPU).verdicts[0].reason  # the middle is whole
    first, second = evaluate(model, clips, LABELS, CPU, views=Views(3, 1)).verdicts
    assert "img_00018.png" in first.reason
    assert (first.top, first.right) == ((), False)
    alone = evaluate(model, Clips(items[:1], DENSE), LABELS, CPU, views=Views(3, 1)).verdicts[0]
    assert second.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_nothing_readable_is_an_error_with_a_hint(model: FoldedModel, with_bad: list[Item]) -> None:
    with pytest.raises(VideoError, match="none of the 2 videos") as caught:
        evaluate(model, Clips([with_bad[1], with_bad[-1]], SPEC), LABELS, CPU)
    assert "data.root" in caught.value.fix


def test_predictions_parse_back(model: FoldedModel, with_bad: list[Item], tmp_path: Path) -> None:
    names = ["red, or rouge", 'green "vert"', "bläu"]
    evaluation = evaluate(model, Clips(with_bad, SPEC), names, CPU)
    save_evaluation(evaluation, tmp_path)
    write_predictions(tmp_path / "table.csv", evaluation.verdicts, names, evaluation.views)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(lines) == len(table) == 14
    for verdict, line, row in zip(evaluation.verdicts, lines, table, strict=True):
        assert line["path"] == row["path"] == str(verdict.path)
        assert line["label"] == row["label"] == names[verdict.label]
        assert line["right"] == (row["right"] == "True") == verdict.right
        if verdict.reason:
            assert line["reason"] == row["reason"] == verdict.reason
            assert (line["predicted"], row["predicted"], line["top"], row["class_1"]) == (None, "", [], None)
            continue
        assert line["predicted"] == row["predicted"] == names[verdict.top[0]] == line["top"][0][0]
        assert [tuple(pair) for pair in line["top"]] == [
            (row[f"class_{n}"], float(row[f"probability_{n}"])) for n in (1, 2, 3)
        ]
        assert sum(p for _, p in line["top"]) == pytest.approx(1)
    with (tmp_path / "per_class.csv").open(encoding="utf-8", newline="") as file:
        classes = {row["class"]: (int(row["clips"]), int(row["right"])) for row in csv.DictReader(file)}
    assert classes == evaluation.per_class
    assert sum(clips for clips, _ in classes.values()) == 14


def test_views_come_from_the_run_unless_others_are_asked_for(
    task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = PromptPack.load(tuned / "pack.safetensors")
    replace(pack, training={**pack.training, "views": "2x3"}).save(tmp_path / "pack.safetensors")

    def views(*arguments: object) -> Iterator[object]:
        run(monkeypatch, tmp_path / "pack.safetensors", "--list", task.folder / "val.csv", "--json", *arguments)
        result = json.loads(capsys.readouterr().out)
        yield from (result["views"], result["accuracy_shuffled"] is None, result["preprocessing"]["fingerprint"])

    *own, first = views()
    *other, second = views("--views", "1x1", "--predictions", tmp_path / "table.csv")
    assert (own, other) == (["2x3", True], ["1x1", False])
    assert first != second
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").startswith("path,label,predicted,")


def test_views_that_do_not_exist_are_refused_before_a_video_is_read(
    task: Task, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="starts and middles"):
        run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "none.csv", "--views", "3x3")


def test_split_and_decoder_come_from_the_run_unless_others_are_asked_for(
    task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three official splits of six videos, with classes in folders."""
    root, lines = tmp_path / "UCF101", (task.folder / "val.csv").read_text(encoding="utf-8").splitlines()[:6]
    (root / "ucfTrainTestlist").mkdir(parents=True)
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("1 red\n2 green\n3 blue\n", encoding="utf-8")
    videos = []
    for number, line in enumerate(lines):
        file, label = line.split()
        name = LABELS[int(label)]
        video = root / "videos" / name / f"v_{name}_g0{number + 1}_c01.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes((task.folder / file).read_bytes())
        videos.append(f"{name}/{video.name}")
    for split in (1, 2, 3):
        test, train = videos[:split], videos[split:]
        for part, some in (("test", test), ("train", train)):
            text = "".join(f"{video} {LABELS.index(video.split('/')[0]) + 1}\n" for video in some)
            (root / "ucfTrainTestlist" / f"{part}list0{split}.txt").write_text(text, encoding="utf-8")
    pack = PromptPack.load(tuned / "pack.safetensors")
    training = {**pack.training, "split": 2, "decoder": "decord"}
    replace(pack, training=training).save(tmp_path / "pack.safetensors")

    def evaluated(*arguments: object) -> tuple[int, str, str]:
        run(monkeypatch, tmp_path / "pack.safetensors", "--list", root, "--json", *arguments)
        shown = capsys.readouterr()
        result = json.loads(shown.out)
        return result["clips"], result["preprocessing"]["decoder"], shown.err

    clips, decoder, said = evaluated()
    assert (clips, decoder) == (2, "decord")
    assert "warning" not in said
    clips, decoder, said = evaluated("--split", 3, "--decoder", "pyav")
    assert (clips, decoder) == (3, "pyav")
    assert "warning: the split of the pack's run is 2, that of this evaluation 3; it may have trained on these" in said
    assert "warning: the decoder of the pack's run is decord, that of this evaluation pyav" in said
    older = {name: value for name, value in pack.training.items() if name not in ("split", "decoder")}
    replace(pack, training=older).save(tmp_path / "pack.safetensors")
    assert evaluated()[:2] == (1, "pyav")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
def test_names_that_are_no_text_are_written(
    task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val" / "red").mkdir(parents=True)
    source = (task.folder / "val-0-0.mp4").read_bytes()
    (tmp_path / "val" / "red" / os.fsdecode(b"caf\xe9.mp4")).write_bytes(source)
    (tmp_path / "val" / "red" / os.fsdecode(b"n\xf8.mp4")).write_bytes(b"no video")
    pack, out = tuned / "pack.safetensors", tmp_path / "out"
    run(monkeypatch, pack, "--list", tmp_path, "--out", out / "a.json", "--predictions", out / "a.csv")
    run(monkeypatch, pack, "--list", tmp_path, "--out", out / "a.json")
    rows = [json.loads(line) for line in (out / "a.predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    with (out / "a.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    for some in (rows, table):
        assert [row["path"].rpartition("/")[2] for row in some] == ["caf\\xe9.mp4", "n\\xf8.mp4"]
        assert not some[1]["reason"].startswith(str(tmp_path))
    names = ["caf\udce9", "b", "c"]
    found = Evaluation([Verdict(Path("x"), 0, (0, 1), (0.5, 0.5))], False, names, Views(), {"fingerprint": ""})
    save_evaluation(found, tmp_path / "names")
    assert "caf\\xe9" in describe(found)
    assert "caf\\xe9,1,1" in (tmp_path / "names" / "per_class.csv").read_text(encoding="utf-8")


def test_files_stand_beside_the_json_under_its_name(
    task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "run"
    shutil.copytree(tuned, own)
    before = {path: path.read_bytes() for path in own.iterdir() if path.is_file()}
    common = (own / "pack.safetensors", "--list", task.folder / "val.csv", "--out")
    run(monkeypatch, *common, own / "on-train.json")
    sides = ("predictions.jsonl", "per_class.csv", "per_class.png", "confusion.png")
    new = {path.name for path in own.iterdir() if path.is_file()} - {path.name for path in before}
    assert new == {"on-train.json", *(f"on-train.{side}" for side in sides)}
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "folder").mkdir()
    run(monkeypatch, *common, tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"evaluation.json", *sides}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "RUN"], "what the tuning run measured"),
        (["--out", "FILE/x.json"], "is a file"),
        (["--predictions", "FOLDER"], "is a folder"),
        (["--out", "FOLDER/new/x.json", "--predictions", "FILE/x.csv"], "is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_a_list_is_read(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    names = {"RUN": str(tuned), "FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path / "folder")}
    for short, long in names.items():
        options = [option.replace(short, long) for option in options]
    with pytest.raises(ConfigError, match=words):
        run(monkeypatch, tuned / "pack.safetensors", "--list", tmp_path / "none.csv", *options)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: its own arithmetic")


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def test_batches_are_normalised_to_the_last_bit_as_on_devices(where: str) -> None:
    spec = replace(SPEC, mean=(0.481, 0.458, 0.408), std=(0.269, 0.261, 0.276))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    expected = np.stack([normalise(clip, spec) for clip in pixels])
    found = normalised(torch.from_numpy(pixels).to(where), spec)
    assert found.cpu().numpy().tobytes() == expected.tobytes()


def test_workers_send_pixels(items: list[Item]) -> None:
    crops = _ViewClips(Clips(items, DENSE), Views(5, 3))[0, (2,)].pixels
    assert (crops.dtype, crops.shape) == (torch.uint8, (3, 4, 32, 32, 3))


def test_a_fingerprint_tells_what_made_the_clips() -> None:
    one = preprocessing(DENSE, Views(5, 3), "pyav")
    assert one == preprocessing(DENSE, Views(5, 3), "pyav")
    assert set(one["versions"]) == {"av", "numpy"}
    others = [
        preprocessing(replace(DENSE, stride=2), Views(5, 3), "pyav"),
        preprocessing(DENSE, Views(5, 1), "pyav"),
        preprocessing(DENSE, Views(5, 3), "decord"),
    ]
    assert len({one["fingerprint"], *(other["fingerprint"] for other in others)}) == 4


def test_people_get_lines(
    task: Task, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (task.folder / "gap.csv").write_text("val-0-0.mp4 0\nval-0-1.mp4 0\nval-1-0.mp4 1\nnone.mp4 2\n", encoding="utf-8")
    run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "gap.csv")
    said = capsys.readouterr().out
    assert "frames shuffled" in said
    assert "unreadable         1, counted as wrong" in said
    run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "gap.csv", "--views", "2x1", "--skip-bad")
    said = capsys.readouterr().out
    assert "frames shuffled" not in said
    assert "clips              3, 2x1 views" in said


@pytest.mark.parametrize("classes", [3, 4, 60, 174, 400])
@pytest.mark.filterwarnings("error")
def test_pictures_of_many_classes_stay_legible(tmp_path: Path, classes: int) -> None:
    rng = np.random.default_rng(0)
    long = "Trying to pour something into something, but missing so that it spills next to it, for $1 or $2"
    names = [f"{long} {k}" for k in range(classes)]
    found = [Verdict(Path("x"), k, tuple(rng.permutation(classes)[:5].tolist()), (0.2,) * 5) for k in range(classes)]
    save_confusion(Evaluation(found, False, names, Views(), {}).confusion, names, tmp_path / "confusion.png")
    save_per_class({name: float(rng.random()) for name in names}, tmp_path / "per_class.png")
    for name in ("confusion.png", "per_class.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300
            assert max(image.size) <= 2400


def test_other_backbone_is_refused(task: Task, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_backbone(other, freeze(Vit(TINY)))
    with pytest.raises(PackError, match="do not belong together"):
        run(monkeypatch, tuned / "pack.safetensors", "--list", task.folder / "val.csv", "--backbone", other)


def test_list_with_more_classes_is_refused(task: Task, tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = task.folder / "more.csv"
    wrong.write_text("val-0-0.mp4 7\nval-0-1.mp4 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="7"):
        run(monkeypatch, tuned / "pack.safetensors", "--list", wrong)


MEMORY = """
import resource, sys
from pathlib import Path
import av, numpy as np, torch
from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import Head, Vit, VitConfig
from apt_edge.clip import ClipSpec
from apt_edge.video.lists import Item
from apt_edge.video.views import Views
from train.engine.data import Clips
from train.evaluate import evaluate

video = Path(sys.argv[1])
with av.open(str(video), "w") as container:
    stream = container.add_stream("mpeg4", rate=30)
    stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
    picture = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format="rgb24")
    for number in range(3000):
        picture.pts = number
        container.mux(stream.encode(picture))
    container.mux(stream.encode())

config = VitConfig(width=64, depth=1, heads=2, frames=16, size=32)
model = FoldedModel(freeze(Vit(config)), Head(64, 3), {})
clips = Clips([Item(video, 0)], ClipSpec(frames=16, size=32))
peaks = []
for views in (Views(), Views(1, 3), Views(10, 3)):
    found = evaluate(model, clips, ["a", "b", "c"], torch.device("cpu"), views=views)
    assert not found.verdicts[0].reason, found.verdicts[0].reason
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""


@pytest.mark.slow
def test_memory_stays_flat_over_views(tmp_path: Path) -> None:
    # Ten clips of 16 frames of 0.9 MB would be 150 MB, the whole video 2.8 GB. Three crops resize more than one does.
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "long.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    one, three_crops, all_views = (int(peak) / 1000 for peak in done.stdout.split())  # MB
    assert all_views - three_crops < 40
    assert all_views - one < 110
