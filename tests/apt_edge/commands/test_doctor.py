"""`apt-edge doctor`: what files of real systems say, and what would fail with a model."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from apt_edge.doctor import model as of_model
from apt_edge.doctor.device import device_files, device_programs
from apt_edge.doctor.model import examine_model
from apt_edge.doctor.report import examine
from export.to_bundle import to_bundle
from tests.export.exporting import export, target

# As JetPack 6.2.1 on an Orin Nano has them.
ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\x00",
    "proc/meminfo": "MemTotal:        7802940 kB\nMemFree:         4913120 kB\nMemAvailable:    5976084 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10": "",
    "usr/lib/aarch64-linux-gnu/libnvinfer_plugin.so.10.3.0": "",
    "usr/local/cuda/version.json": '{\n   "cuda" : {\n      "name" : "CUDA SDK",\n      "version" : "12.6.11"\n   }}\n',
    "var/lib/dpkg/status": "Package: nvidia-l4t-core\nStatus: install ok installed\nArchitecture: arm64\n"
    "Version: 36.4.3-20250107174145\n\nPackage: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\n"
    "Section: metapackages\nMaintainer: NVIDIA Corporation\nSource: nvidia-jetpack (6.2.1)\nVersion: 6.2.1+b38\n\n"
    "Package: nvidia-jetpack-dev\nStatus: install ok installed\nVersion: 6.2.1+b38\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  "
    "(buildbrain@mobile-u64-6336-d8000)  Tue Jan  7 17:35:12 PST 2025\nGCC version:  collect2: error: ld returned 1\n",
}
BARE = {"l4t": None, "jetpack": None, "tensorrt": [], "driver": None, "free_memory_mb": None}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def whats(report):
    return [problem["what"] for problem in report["problems"]]


def test_a_jetson_is_known_by_its_files(tmp_path):
    assert device_files(tree(tmp_path, ORIN)) == {
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "36.4.3",
        "jetpack": "6.2.1",
        "tensorrt": ["10.3.0"],
        "cuda_toolkit": "12.6.11",
        "driver": "540.4.0",
        "governor": "schedutil",
        "memory_mb": 7990,
        "free_memory_mb": 6119,
    }
    assert not any(device_files(tmp_path / "nowhere").values())


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64", "35.4.1", "5.1"),
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64", "36.4.0", "6.1"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 5.0, GCID: 43688277, BOARD: generic, EABI: aarch64", "36.5.0", "6.2.2"),
        ("# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64", "38.4.0", "7.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64", "39.2.0", "7.2"),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic, EABI: aarch64", "99.1.0", None),
    ],
)
def test_jetpack_follows_from_the_release_where_its_package_is_not_installed(tmp_path, release, l4t, jetpack):
    removed = "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 4.6-b197\n"
    found = device_files(tree(tmp_path, {"etc/nv_tegra_release": release + "\n", "var/lib/dpkg/status": removed}))
    assert (found["l4t"], found["jetpack"]) == (l4t, jetpack)


@pytest.mark.parametrize(
    ("line", "driver"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri Jan 10 20:00:00 UTC 2025", "550.135"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  "
            "(dvs-builder@U22-I3-B17-02-5)  Tue Sep 23 09:55:41 UTC 2025",
            "580.95.05",
        ),
    ],
)
def test_the_driver_of_a_desktop(tmp_path, line, driver):
    assert device_files(tree(tmp_path, {"proc/driver/nvidia/version": line}))["driver"] == driver


def test_programs_tell_power_mode_and_gpus(tmp_path, monkeypatch):
    for name, text in {
        "nvpmodel": "NV Power Mode: 25W\n1",
        "nvidia-smi": "NVIDIA H200, 143000 MiB, 143771 MiB",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = device_programs()
    assert (found["power_mode"], found["gpus"]) == ("25W", ["NVIDIA H200, 143000 MiB, 143771 MiB"])


def test_doctor_names_what_is_missing_and_the_fix(apt_edge):
    report = json.loads(apt_edge("doctor", "--json").stdout)
    assert report["device"]["free_disk_mb"] > 0
    assert report["steps"]["train"]["ready"]
    for step in report["steps"].values():
        assert step["ready"] == (not step["missing"])
        assert step["ready"] or "pip install" in step["fix"]
    done = apt_edge("doctor")
    assert done.returncode == 0
    assert "compile for RTX" in done.stdout


def test_a_model_that_runs_is_said_to_run(apt_edge, tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    done = apt_edge("doctor", tmp_path / "m")
    assert done.returncode == 0, done.stdout
    assert f"{tmp_path / 'm'} ran a clip in onnxruntime-cpu" in done.stdout


def other_prompts(path):
    arrays = load_file(path / "prompts.safetensors")
    save_file({name: array[..., :1] for name, array in arrays.items()}, path / "prompts.safetensors")


def no_inputs(path):
    facts = json.loads((path / "model.json").read_text())
    del facts["inputs"]
    (path / "model.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("folded-parts", lambda path: (path / "part1.onnx").unlink(), "part1.onnx is not the part"),
        ("bound", lambda path: (path / "prompts.safetensors").unlink(), "prompts.safetensors is missing"),
        ("bound", other_prompts, "prompts.safetensors is"),
        ("bound", no_inputs, "model.json is damaged"),
    ],
)
def test_a_model_that_opens_and_does_not_run(task_models, tmp_path, name, damage, message):
    shutil.copytree(task_models / name, tmp_path / "m")
    assert examine_model(tmp_path / "m", BARE)["problems"] == []
    damage(tmp_path / "m")
    (problem,) = examine_model(tmp_path / "m", BARE)["problems"]
    assert message in problem["what"]
    assert problem["fix"]


def test_a_lacking_codec_is_a_warning(apt_edge, task_models, monkeypatch):
    monkeypatch.setattr(of_model, "CODECS", ("h264", "no such codec"))
    done = apt_edge("doctor", task_models / "folded-one")
    assert done.returncode == 0
    assert "warning: this PyAV decodes no no such codec" in done.stdout


def test_a_bundle_that_changed_and_a_model_that_is_none(apt_edge, tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    wheel = tmp_path / "apt_edge-0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    to_bundle(tmp_path / "m", tmp_path / "bundle", wheel)
    with (tmp_path / "bundle" / "labels.txt").open("a") as file:
        file.write("one more\n")
    done = apt_edge("doctor", tmp_path / "bundle", "--json")
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["model"]["problems"]
    assert (problem["found"], problem["fix"]) == ("labels.txt has changed", "copy the bundle again, all of it")
    assert "would not run here" in done.stderr
    assert "model.onnx is missing" in apt_edge("doctor", tmp_path).stdout


def test_an_engine_that_cannot_run_here_says_all_that_it_lacks(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("tensorrt-rtx"), tokens=8)
    report = examine_model(tmp_path / "m", BARE)
    assert any("has no model.engine" in what for what in whats(report))
    (tmp_path / "m" / "model.engine").write_bytes(b"a plan of somebody")
    report = examine_model(tmp_path / "m", BARE)
    assert any("model.engine is not trusted" in what for what in whats(report))
    assert all(problem["fix"] for problem in report["problems"])


def test_another_tensorrt_than_the_graph_is_for(tiny_vit, tiny_frames, tmp_path, monkeypatch):
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("jetson-jp6-orin"), tokens=8)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # a virtual environment that does not see JetPack's
    monkeypatch.setattr(of_model, "TENSORRT", ())
    device = BARE | {"l4t": "39.2.0", "jetpack": "7.2", "tensorrt": ["10.16.2"]}
    problems = {problem["what"]: problem for problem in examine_model(tmp_path / "m", device)["problems"]}
    assert problems[f"{tmp_path / 'm'} is for TensorRT 10.3"]["found"] == "TensorRT 10.16.2 of JetPack 7.2"
    assert "--system-site-packages" in problems[f"{tmp_path / 'm'} needs tensorrt, which does not load"]["fix"]
    same = examine_model(tmp_path / "m", device | {"tensorrt": ["10.3.0"]})
    assert not any("is for TensorRT" in what for what in whats(same))


def test_too_little_memory_disk_and_no_decoder(tiny_vit, tiny_frames, tmp_path, monkeypatch):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    root = tree(tmp_path / "root", {"proc/meminfo": "MemTotal: 2000000 kB\nMemAvailable: 300 kB\n"})
    (problem,) = examine(tmp_path / "m", root)["model"]["problems"]
    assert "too little memory" in problem["what"]
    assert problem["found"].startswith("0 MB free")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "PyAV does not load, which reads videos" in whats(examine_model(tmp_path / "m", BARE))
    export(tiny_vit, tiny_frames, tmp_path / "e", chosen=target("tensorrt-rtx"), tokens=8)
    monkeypatch.setattr(of_model, "BUILD_SPACE", 1 << 40)
    assert any("too little room to build" in what for what in whats(examine_model(tmp_path / "e", BARE)))


def test_another_onnxruntime_than_the_graph_needs(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    facts = json.loads((tmp_path / "m" / "model.json").read_text())
    facts["target"]["runtime"] = "onnxruntime-cuda"
    (tmp_path / "m" / "model.json").write_text(json.dumps(facts))
    found = whats(examine_model(tmp_path / "m", BARE))
    assert f"{tmp_path / 'm'} needs an NVIDIA GPU" in found
