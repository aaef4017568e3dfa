"""`apt-edge predict` on a real export and real videos."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from apt_edge.runtime.predictor import Predictor, softmax
from apt_edge.runtime.runner import TaskRunner
from apt_edge.video.load import load_frames
from apt_edge.video.views import Views, load_views
from export.to_bundle import to_bundle
from tests.conftest import TINY_CLIP
from tests.export.exporting import export


@pytest.fixture
def model(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    return tmp_path / "m"


def rows_of(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_predict_prints_labels_and_stages(apt_edge, model, videos):
    done = apt_edge("predict", model, videos / "a video.mp4", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = rows_of(done)
    clip = load_frames(videos / "a video.mp4", TINY_CLIP)[None]
    logits = onnxruntime.InferenceSession(model / "model.onnx").run(None, {"clip": clip})[0][0]
    assert (found["task"], found["labels"][0]) == ("m", f"class {logits.argmax()}")
    assert found["probabilities"][0] == pytest.approx((np.exp(logits) / np.exp(logits).sum()).max(), abs=1e-5)
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert set(found["milliseconds"]) == {"decode", "preprocess", "inference"}
    text = apt_edge("predict", model, videos / "a video.mp4", "--top", 2).stdout
    assert text.count("class ") == 2
    assert "decode" in text


def test_views_are_averaged(apt_edge, model, videos):
    (found,) = rows_of(apt_edge("predict", model, videos / "b.mp4", "--views", "2x3", "--json"))
    runner = TaskRunner.open(model)
    crops = [crop for view in load_views(videos / "b.mp4", TINY_CLIP, Views(2, 3)) for crop in view]
    mean = np.mean([softmax(runner.logits(crop)["m"]) for crop in crops], axis=0)
    assert len(crops) == 6
    assert found["probabilities"] == pytest.approx(sorted(mean, reverse=True))
    done = apt_edge("predict", model, videos / "b.mp4", "--views", "5x3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "use 1 or 2 clips" in done.stderr


def test_tasks_share_a_model(apt_edge, task_models, videos):
    tasks = [f"--task={name}={task_models / name}.safetensors" for name in ("one", "other")]
    rows = rows_of(apt_edge("predict", task_models / "free", videos / "b.mp4", *tasks, "--json"))
    assert [row["task"] for row in rows] == ["one", "other"]
    for row in rows:
        model = task_models / f"folded-{row['task']}"
        (alone,) = rows_of(apt_edge("predict", model, videos / "b.mp4", "--json"))
        assert (row["labels"], row["probabilities"]) == (alone["labels"], alone["probabilities"])
    text = apt_edge("predict", task_models / "free", videos / "b.mp4", *tasks, "--top", 1).stdout.splitlines()
    assert [line.strip() for line in (text[1], text[3])] == ["one", "other"]
    done = apt_edge("predict", task_models / "folded-one", videos / "b.mp4", tasks[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert "takes no other task than its own" in done.stderr


def test_a_folder_goes_on_behind_a_file_that_cannot_be_read(apt_edge, model, videos, tmp_path):
    table = tmp_path / "out" / "labels.csv"
    done = apt_edge("predict", model, videos, tmp_path / "gone.mp4", "--json", "--top", 2, "--csv", table)
    assert done.returncode == 1
    rows = rows_of(done)
    names = ["a video.mp4", "b.mp4", "deeper/c.mp4", "deeper/text.mp4"]
    assert [row["video"] for row in rows] == [*(str(videos / name) for name in names), str(tmp_path / "gone.mp4")]
    assert ["labels" in row for row in rows] == [True, True, True, False, False]
    assert rows[3]["error"].startswith("is a text file, not a video")
    assert "2 of 5 videos could not be read" in done.stderr
    assert "gone.mp4 does not exist" in done.stderr
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 + 2
    assert (lines[1]["rank"], lines[1]["label"]) == ("2", rows[0]["labels"][1])
    assert float(lines[1]["probability"]) == rows[0]["probabilities"][1]
    assert (lines[-1]["label"], lines[-1]["error"]) == ("", rows[4]["error"])
    assert apt_edge("predict", model, videos, "--skip-bad").returncode == 0


@pytest.mark.parametrize("files", [1, 2])
def test_options_stand_anywhere(apt_edge, task_models, videos, tmp_path, files):
    listed = tmp_path / "one.txt"
    listed.write_text(f"{videos / 'b.mp4'} 0\n")
    model, clips = task_models / "free", [videos / "b.mp4", videos / "a video.mp4"][:files]
    options = ["--json", "--threads", 1, f"--task=one={task_models / 'one.safetensors'}"]
    orders = [
        [model, *clips, *options],
        [*options, model, *clips],
        [model, *options, *clips],
        [options[0], model, *options[1:], clips[0], "--top", 9, *clips[1:]],
        [model, "--list", listed, *clips, *options],
    ]
    rows = [[row["probabilities"] for row in rows_of(apt_edge("predict", *order))] for order in orders]
    assert len(rows[0]) == files
    assert rows[1] == rows[2] == rows[3] == rows[0]
    assert rows[4] == [*rows[0], rows[0][0]]
    done = apt_edge("predict", model, "--jsn", clips[0])
    assert (done.returncode, done.stdout) == (2, "")


def test_a_table_replaces_tables_alone(apt_edge, model, videos, tmp_path):
    own = tmp_path / "own.mp4"
    shutil.copy(videos / "b.mp4", own)
    (tmp_path / "list.txt").write_text(f"{own} 0\n")
    before = own.read_bytes()
    for table, found in (
        (own, "one of the files to be read"),
        (tmp_path / "list.txt", "one of the files to be read"),
        (tmp_path, "a directory"),
        (model / "out.csv", "a file of the model's directory"),
    ):
        done = apt_edge("predict", model, "--list", tmp_path / "list.txt", "--csv", table)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"found: {found}" in done.stderr
    assert own.read_bytes() == before
    assert not (model / "out.csv").exists()


def test_a_run_that_is_stopped_keeps_its_table(apt_edge, model, videos, tmp_path, monkeypatch):
    predict = Predictor.predict

    def stopped(self, video, top):
        if video.path.name == "c.mp4":
            raise KeyboardInterrupt
        return predict(self, video, top)

    monkeypatch.setattr(Predictor, "predict", stopped)
    done = apt_edge("predict", model, videos, "--top", 1, "--csv", tmp_path / "labels.csv")
    assert done.returncode == 130
    with (tmp_path / "labels.csv").open(newline="") as file:
        assert [line["video"] for line in csv.DictReader(file)] == [str(videos / "a video.mp4"), str(videos / "b.mp4")]


def test_text_says_of_each_video_what_it_shows_or_why_not(apt_edge, model, videos):
    done = apt_edge("predict", model, videos / "deeper", "--top", 1)
    lines = done.stdout.splitlines()
    assert lines[0] == str(videos / "deeper" / "c.mp4")
    assert lines[1].endswith(tuple(f"class {i}" for i in range(5)))
    assert lines[3:] == [str(videos / "deeper" / "text.mp4"), "  " + lines[4].strip()]
    assert "not a video" in lines[4]


def test_a_list_gives_paths_and_segments(apt_edge, model, videos, tmp_path):
    (tmp_path / "clips.csv").write_text("path,start,end,label\nb.mp4,0,0.5,x\ndeeper/c.mp4,0.25,,y\n")
    done = apt_edge("predict", model, "--list", tmp_path / "clips.csv", "--root", videos, "--json")
    assert done.returncode == 0, done.stderr
    rows = rows_of(done)
    assert [(row["video"], row.get("start"), row.get("end")) for row in rows] == [
        (str(videos / "b.mp4"), 0, 0.5),
        (str(videos / "deeper" / "c.mp4"), 0.25, None),
    ]
    text = apt_edge("predict", model, "--list", tmp_path / "clips.csv", "--root", videos).stdout
    assert "b.mp4 from 0 s to 0.5 s\n" in text
    assert "c.mp4 from 0.25 s\n" in text


def test_results_appear_at_once_and_progress_on_a_terminal_alone(model, videos):
    command = [sys.executable, "-m", "apt_edge.cli", "predict", model, *[videos / "b.mp4"] * 30, "--json", "--top", "1"]
    terminal, process_end = os.openpty()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=process_end, env=buffered) as process:
        first = os.read(process.stdout.fileno(), 1 << 20)
        rest = process.stdout.read()
    os.close(process_end)
    assert 1 <= first.count(b"\n") < 30
    assert (first + rest).count(b"\n") == 30
    assert b"29/30 videos, " in os.read(terminal, 1 << 20)
    os.close(terminal)
    quiet = subprocess.run(command, capture_output=True, check=True)
    assert quiet.stderr == b""


def test_a_bundle_is_checked_before_it_is_used(apt_edge, model, videos, tmp_path):
    wheel = tmp_path / "apt_edge-0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    to_bundle(model, tmp_path / "bundle", wheel)
    assert apt_edge("predict", tmp_path / "bundle", videos / "b.mp4").returncode == 0
    with (tmp_path / "bundle" / "golden.npz").open("ab") as file:
        file.write(b"!")
    done = apt_edge("predict", tmp_path / "bundle", videos / "b.mp4")
    assert (done.returncode, done.stdout) == (1, "")
    assert "golden.npz has changed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give video files, folders of videos, or --list"),
        (["b.mp4", "--top", "0"], 2, "0 is no number from 1"),
        (["b.mp4", "--task", "dance"], 2, "dance is no task: write NAME=PACK"),
        (["b.mp4", "--task", "a=x", "--task", "a=y"], 2, "a name of its own"),
        (["b.mp4", "--views", "three"], 1, "write for example 5x3"),
        (["b.mp4", "--task", "a=x"], 1, "x"),
        (["empty"], 1, "holds no video"),
    ],
)
def test_bad_requests_end_in_an_instruction(apt_edge, model, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done = apt_edge("predict", model, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "empty"), (b"just text, no video\n" * 9, "video"), ("cut", "")],
)
def test_bad_videos_are_rows_with_a_reason(apt_edge, model, tmp_path, videos, content, message):
    bad = tmp_path / "bad.mp4"
    if content is not None:
        bad.write_bytes((videos / "b.mp4").read_bytes()[:-200] if content == "cut" else content)
    done = apt_edge("predict", model, bad)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in done.stdout
    assert "1 of 1 videos could not be read" in done.stderr
    assert "bad.mp4" in done.stderr


def test_a_graph_that_is_not_what_the_sidecar_says_is_refused(apt_edge, model, videos):
    facts = json.loads((model / "model.json").read_text())
    facts["clip"]["frames"] = 8
    (model / "model.json").write_text(json.dumps(facts))
    done = apt_edge("predict", model, videos / "b.mp4")
    assert (done.returncode, done.stdout) == (1, "")
    assert "input clip must be uint8 of shape 1x4x32x32x3" in done.stderr
    with (model / "model.onnx").open("ab") as file:
        file.write(b"\0")
    done = apt_edge("predict", model, videos / "b.mp4")
    assert done.returncode == 1
    assert "is not the file that model.json describes" in done.stderr


def test_pictures_are_a_video_of_their_folder(apt_edge, model, videos, tmp_path):
    from PIL import Image

    from apt_edge.video.decode import read_frames

    frames = read_frames(videos / "b.mp4", range(8))
    np.save(tmp_path / "clip.npy", frames)
    for place in ("one", "two/inner", ".hidden"):
        (tmp_path / "all" / place).mkdir(parents=True)
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / "all" / place / f"{i:03}.png")
    shutil.move(tmp_path / "clip.npy", tmp_path / "all" / "clip.npy")
    rows = rows_of(apt_edge("predict", model, tmp_path / "all", "--json"))
    assert [row["video"].rpartition("all")[2] for row in rows] == ["/clip.npy", "/one", "/two/inner"]
    assert rows[0]["probabilities"] == rows[1]["probabilities"] == rows[2]["probabilities"]
