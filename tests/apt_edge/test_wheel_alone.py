"""The wheel in a virtual environment of its own, with numpy, safetensors, PyAV and ONNX Runtime and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from apt_edge.runtime.predictor import Predictor
from apt_edge.runtime.runner import TaskRunner
from export.to_bundle import to_bundle
from tests.apt_edge.broken_files import encode
from tests.export.exporting import export

ABSENT = ("torch", "onnx", "pydantic", "tqdm", "PIL", "matplotlib", "tensorrt_rtx", "train", "export", "bench")


def needs(package: Distribution, extra: str = "") -> set[str]:
    """Names of what a package and what it needs declare."""
    found: set[str] = set()
    for line in package.requires or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            found |= {need.name} | needs(distribution(need.name))
    return found


@pytest.fixture(scope="module")
def device(tmp_path_factory, wheel) -> Path:
    """The environment's folder: the wheel installed by pip, and copies of what its extra `onnxruntime` declares."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (info,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    for name in needs(PathDistribution(info), "onnxruntime"):
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), site / file)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-compile", f"{wheel}[onnxruntime]"], check=True)
    return folder


@pytest.fixture
def bundle(tiny_vit, tiny_frames, tmp_path, wheel) -> Path:
    """A bundle that was packed and unpacked."""
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    to_bundle(tmp_path / "m", tmp_path / "m.tar", wheel)
    with tarfile.open(tmp_path / "m.tar") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    return tmp_path / "unpacked" / "m"


def test_predict_and_stream_where_there_is_neither_torch_nor_onnx(device, bundle, tmp_path, capsys):
    video = encode(tmp_path / "v.mp4", "libx264", size=(64, 48), frames=24)

    def run(*command: object) -> str:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            [device / "bin" / str(command[0]), *map(str, command[1:])],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    look = f"from importlib.util import find_spec; print([name for name in {ABSENT} if find_spec(name)])"
    assert run("python", "-c", look) == "[]\n"
    found = json.loads(run("apt-edge", "predict", bundle, video, "--json"))
    (expected,) = Predictor(TaskRunner.open(bundle)).predict(video)
    assert (found["task"], tuple(found["labels"])) == (expected.task, expected.labels)
    assert found["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    lines = run("apt-edge", "stream", bundle, video, "--fast", "--windows", "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert events[-1]["event"] == "summary"
    assert events[-1]["run"] == events[-1]["windows"] > 0
    assert "ran a clip in onnxruntime-cpu" in run("apt-edge", "doctor", bundle)
    size = sum(path.stat().st_size for path in device.rglob("*") if path.is_file() and not path.is_symlink())
    with capsys.disabled():
        print(f"\nthe environment of a device: {size / 1e6:.0f} MB")
