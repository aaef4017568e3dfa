"""Packing: what is inside, that equal models give equal bytes, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from apt_edge.errors import AptEdgeError, ConfigError, ModelError
from apt_edge.runtime.bundle import load_bundle
from export.bundle import wheel as wheels
from export.to_bundle import to_bundle
from tests.export.bundle.models import LABELS, PROMPT, make_model

ALWAYS = {
    "README.txt",
    "SHA256SUMS",
    "golden.npz",
    "labels.txt",
    "measure.sh",
    "model.json",
    "model.onnx",
    "selftest.sh",
}


@pytest.mark.parametrize(
    ("page", "bound", "more"),
    [
        ("onnxruntime-cpu", False, set()),
        ("openvino-cpu", True, {"prompts.safetensors"}),
        ("jetson-jp6-orin", True, {"build.sh", "prompts.safetensors"}),
    ],
)
def test_a_bundle_is_complete_and_its_own_proof(tmp_path, wheel, page, bound, more):
    model = make_model(tmp_path / "m", page, bound)
    packed = to_bundle(model, tmp_path / "out", wheel)
    assert set(packed["files"]) == ALWAYS | more | {wheel.name}
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == LABELS
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK")) == (0, len(packed["files"]) - 1)
    assert load_bundle(tmp_path / "out").facts == json.loads((model / "model.json").read_text())
    text = (tmp_path / "out" / "README.txt").read_text()
    assert ("safetensors" in text, "build.sh" in text) == (bound, page.startswith("jetson"))


def test_a_tar_has_the_same_bytes_every_time(tmp_path, wheel):
    model = make_model(tmp_path / "m", "onnxruntime-cpu")
    first = to_bundle(model, tmp_path / "one" / "b.tar", wheel)
    to_bundle(model, tmp_path / "two" / "b.tar", wheel)
    assert (tmp_path / "one" / "b.tar").read_bytes() == (tmp_path / "two" / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "one" / "b.tar") as tar:
        names = tar.getnames()
        tar.extractall(tmp_path, filter="data")
    assert names == sorted(f"b/{name}" for name in first["files"])
    load_bundle(tmp_path / "b")
    assert (tmp_path / "b" / "measure.sh").stat().st_mode & 0o111


def test_equal_sources_give_equal_wheels(tmp_path):
    first, second = (wheels.build_wheel(tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    names = zipfile.ZipFile(first).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"apt_edge"}


def test_the_command_writes_a_tar_beside_the_model(tmp_path):
    make_model(tmp_path / "m", "onnxruntime-cpu")
    command = [sys.executable, "-m", "export.to_bundle", str(tmp_path / "m"), "--json"]
    packed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert packed["out"] == str(tmp_path / "m.tar")
    with tarfile.open(packed["out"]) as tar:
        assert {member.name.removeprefix("m/"): member.size for member in tar} == packed["files"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.tar"]


def test_models_that_cannot_be_packed(tmp_path, wheel):
    model = make_model(tmp_path / "m", "onnxruntime-cpu")
    (model / "model.onnx").write_bytes((model / "model.onnx").read_bytes() + b" ")
    with pytest.raises(ModelError, match="is not the file that"):
        to_bundle(model, tmp_path / "out", wheel)
    no_clips = make_model(tmp_path / "n", "onnxruntime-cpu")
    np.savez(no_clips / "golden.npz", clips=np.zeros(3))
    with pytest.raises(ModelError, match="cannot be read"):
        to_bundle(no_clips, tmp_path / "out", wheel)
    with pytest.raises(ConfigError, match="no bundle for TensorRT-RTX"):
        to_bundle(make_model(tmp_path / "r", "tensorrt-rtx"), tmp_path / "out", wheel)
    crowd = make_model(tmp_path / "b", "jetson-jp72", overrides=["batch.min=2", "batch.opt=2", "batch.max=4"])
    with pytest.raises(ConfigError, match="one clip at a time"):
        to_bundle(crowd, tmp_path / "out", wheel)
    brain = make_model(tmp_path / "f", "jetson-jp72", bound=True)
    facts = json.loads((brain / "model.json").read_text())
    facts["inputs"][PROMPT]["dtype"] = "bfloat16"
    (brain / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="numpy has no such type"):
        to_bundle(brain, tmp_path / "out", wheel)
    assert not (tmp_path / "out").exists()


def test_only_a_bundle_is_replaced(tmp_path, wheel):
    model = make_model(tmp_path / "m", "onnxruntime-cpu")
    with pytest.raises(AptEdgeError, match="has no SHA256SUMS, so it is not replaced"):
        to_bundle(model, model, wheel)
    (tmp_path / "out").mkdir()
    to_bundle(model, tmp_path / "out", wheel)
    to_bundle(model, tmp_path / "out", wheel)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def test_without_the_package_build_the_fix_is_named(tmp_path):
    code = (
        "import sys; sys.modules['build'] = None\n"
        "from pathlib import Path\n"
        "from export.bundle.wheel import build_wheel\n"
        "from apt_edge.errors import MissingDependency\n"
        "try: build_wheel(Path('.'))\n"
        "except MissingDependency as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'apt-edge[export]'" in done.stdout, done.stderr
