"""The device's command line on a real export and real videos."""

from __future__ import annotations

import json
import subprocess
import sys

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import save_backbone
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.predictor import Predictor
from apt_edge.video.load import load_frames
from tests.conftest import TINY_CLIP, tiny_pack
from tests.export.exporting import export, target


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "a video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 25 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def apt_edge(*arguments):
    command = [sys.executable, "-m", "apt_edge.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_predict_prints_labels_and_stages(tiny_vit, tiny_frames, tmp_path, video):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    done = apt_edge("predict", tmp_path / "m", video, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    logits = onnxruntime.InferenceSession(tmp_path / "m" / "model.onnx").run(
        None, {"clip": load_frames(video, TINY_CLIP)[None]}
    )[0][0]
    assert found["labels"][0] == f"class {logits.argmax()}"
    assert found["probabilities"][0] == pytest.approx((np.exp(logits) / np.exp(logits).sum()).max(), abs=1e-5)
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert set(found["milliseconds"]) == {"decode", "preprocess", "inference"}
    text = apt_edge("predict", tmp_path / "m", video, "--top", "2").stdout
    assert text.count("class ") == 2
    assert "decode" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "empty"), (b"just text, no video\n" * 9, "video"), ("cut", "")],
)
def test_bad_videos_end_in_an_instruction(tiny_vit, tiny_frames, tmp_path, video, content, message):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    bad = tmp_path / "bad.mp4"
    if content is not None:
        bad.write_bytes(video.read_bytes()[:-200] if content == "cut" else content)
    done = apt_edge("predict", tmp_path / "m", bad)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bad.mp4" in done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_a_graph_with_another_input_is_refused(tiny_vit, tiny_frames, tmp_path, video):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    facts = json.loads((tmp_path / "m" / "model.json").read_text())
    facts["clip"]["frames"] = 8
    (tmp_path / "m" / "model.json").write_text(json.dumps(facts))
    done = apt_edge("predict", tmp_path / "m", video)
    assert done.returncode == 1
    assert "is not what model.json describes" in done.stderr
    model = ModelDir.load(tmp_path / "m")
    with pytest.raises(Exception, match="expected clip"):
        Predictor(model, OrtSession(model.onnx))


def test_a_damaged_graph_is_refused(tiny_vit, tiny_frames, tmp_path, video):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    model = onnx.load(tmp_path / "m" / "model.onnx")
    model.graph.initializer[0].raw_data = b""
    onnx.save(model, tmp_path / "m" / "model.onnx")
    done = apt_edge("predict", tmp_path / "m", video)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "is not the file that model.json describes" in done.stderr


def test_inspect_knows_every_kind_of_file(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("tensorrt-rtx"), tokens=8)
    (tmp_path / "m" / "model.engine").write_bytes(b"some plan")
    tiny_pack(tiny_vit, tokens=8).save(tmp_path / "pack.safetensors")
    pack = json.loads(apt_edge("inspect", tmp_path / "pack.safetensors", "--json").stdout)
    assert (pack["kind"], pack["method"], pack["prompts"]["block 0"]) == ("prompt pack", "apt", "8 x 1 head(s)")
    assert (pack["form"], pack["changed_numbers"]) == ("the backbone as it is", 0)
    tiny_pack(tiny_vit, "adaptformer", r=8, start=1).save(tmp_path / "changed.safetensors")
    pack = json.loads(apt_edge("inspect", tmp_path / "changed.safetensors", "--json").stdout)
    assert (pack["form"], pack["changed_numbers"], pack["prompts"]) == ("parallel", 2 * 64 * 8 + 8 + 64, {})
    model = json.loads(apt_edge("inspect", tmp_path / "m", "--json").stdout)
    assert (model["kind"], model["precision"], model["attention"]) == ("exported model", "float16", 2)
    engine = json.loads(apt_edge("inspect", tmp_path / "m" / "model.engine", "--json").stdout)
    assert "describes another engine" in engine["known"]
    save_backbone(tmp_path / "b.safetensors", tiny_vit)
    backbone = json.loads(apt_edge("inspect", tmp_path / "b.safetensors", "--json").stdout)
    assert (backbone["kind"], backbone["config"]["family"], backbone["config"]["per_frame"]) == (
        *("apt-edge backbone 1", "videomae"),
        False,
    )
    save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    assert "python -m train.convert" in apt_edge("inspect", tmp_path / "x.safetensors").stdout
    done = apt_edge("inspect", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_doctor_names_what_is_missing_and_the_fix():
    done = apt_edge("doctor", "--json")
    steps = json.loads(done.stdout)["steps"]
    assert steps["train"]["ready"]
    for step in steps.values():
        assert step["ready"] == (not step["missing"])
        assert step["ready"] or "pip install" in step["fix"]
    assert "compile for RTX" in apt_edge("doctor").stdout


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "long"])
def test_a_measurement_has_a_length(tmp_path, seconds):
    done = apt_edge("bundle", "measure", tmp_path, f"--seconds={seconds}")
    assert done.returncode == 2
    assert f"{seconds} is not a length: give a number of seconds above 0" in done.stderr
