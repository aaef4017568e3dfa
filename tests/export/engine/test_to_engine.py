"""Engines: written whole, audited, reused while their facts hold, with the real TensorRT-RTX compiler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apt_edge.errors import ConfigError, GateError, MissingDependency, ModelError
from export.engine.compiler import build
from export.to_engine import build_engine
from tests.export.engine.graphs import make_model

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
ROOT = Path(__file__).parents[3]


def entry(model: Path) -> dict:
    return json.loads((model / "model.json").read_text())["engine"]


def age(model: Path) -> None:
    """Make the engine old; a new one will not be."""
    os.utime(model / "model.engine", (1, 1))


def is_new(model: Path) -> bool:
    return (model / "model.engine").stat().st_mtime > 1


def test_the_engine_and_its_facts_are_written(tmp_path):
    model = make_model(tmp_path / "m")
    report = build_engine(model)
    assert report == entry(model)
    assert len((model / "model.engine").read_bytes()) == report["plan_bytes"]
    assert (report["fused_attention"], report["prompt_constants"], report["workspace_bytes"]) == (2, 4, None)
    assert report["key"]["profiles"] == {}
    assert report["key"]["flags"] == ["STRONGLY_TYPED", "REQUIRE_USER_ALLOCATION"]
    assert sorted(path.name for path in model.iterdir()) == ["model.engine", "model.json", "model.onnx"]


def test_the_same_request_reuses_the_engine(tmp_path, capsys):
    model = make_model(tmp_path / "m")
    first = build_engine(model)
    age(model)
    assert build_engine(model) == first
    assert not is_new(model)
    assert "model.engine is up to date" in capsys.readouterr().err
    assert build_engine(model, force=True) == first  # the same plan, built anew
    assert is_new(model)


def test_another_request_builds(tmp_path):
    model = make_model(tmp_path / "m")
    first = build_engine(model)
    age(model)
    second = build_engine(model, capabilities=["SM86"])
    assert is_new(model)
    assert second["plan_sha256"] != first["plan_sha256"]
    assert second["key"]["compute_capability"] == ["SM86"]


@pytest.mark.parametrize("harm", ["truncated", "removed", "another compiler"])
def test_an_engine_whose_facts_do_not_hold_is_built_again(tmp_path, harm):
    model = make_model(tmp_path / "m")
    first = build_engine(model)
    engine = model / "model.engine"
    if harm == "truncated":
        engine.write_bytes(engine.read_bytes()[:-1])
    elif harm == "removed":
        engine.unlink()
    else:
        facts = json.loads((model / "model.json").read_text())
        facts["engine"]["key"]["compiler"] = "tensorrt-rtx 1.0"
        (model / "model.json").write_text(json.dumps(facts))
    if engine.exists():
        age(model)
    assert build_engine(model) == first == entry(model)
    assert is_new(model)
    assert engine.stat().st_size == first["plan_bytes"]


def test_free_axes_take_their_profiles_from_the_sidecar(tmp_path):
    model = make_model(tmp_path / "m", bound=True, batch="batch")
    report = build_engine(model)
    assert report["prompt_constants"] == 0
    assert len(report["key"]["profiles"]) == 5
    assert report["key"]["profiles"]["clip"] == [[1, 16, 64], [2, 16, 64], [4, 16, 64]]


def test_a_graph_that_fails_leaves_no_engine(tmp_path):
    model = make_model(tmp_path / "m", precision="float32")
    with pytest.raises(GateError, match="0 of 2 attentions are fused"):
        build_engine(model)
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.onnx"]


# A process that dies at its worst moment: with the plan under its temporary name, or between engine and sidecar.
KILLED = {
    "engine": "import os\nos.replace = lambda *_: os.kill(os.getpid(), 9)",
    "sidecar": "import os, export.to_engine as tool\ntool.write_json = lambda *_: os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("moment", KILLED)
def test_a_killed_build_leaves_nothing_that_is_reused(tmp_path, moment):
    model = make_model(tmp_path / "m")
    code = f"{KILLED[moment]}\nfrom export.to_engine import build_engine\nbuild_engine({str(model)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len([path for path in model.iterdir() if path.name.endswith(".tmp")]) == (moment == "engine")
    assert (model / "model.engine").exists() == (moment == "sidecar")
    assert "engine" not in json.loads((model / "model.json").read_text())
    if moment == "sidecar":
        age(model)
    report = build_engine(model)
    assert is_new(model)
    assert (model / "model.engine").stat().st_size == report["plan_bytes"]
    assert sorted(path.name for path in model.iterdir()) == ["model.engine", "model.json", "model.onnx"]


def test_a_model_that_was_exported_again_meanwhile_keeps_its_facts(tmp_path, monkeypatch):
    model, later = make_model(tmp_path / "m"), make_model(tmp_path / "later", bound=True)
    facts = (later / "model.json").read_bytes()

    def slow(*args, **kwargs):
        built = build(*args, **kwargs)
        for name in ("model.onnx", "model.json"):
            os.replace(later / name, model / name)
        return built

    monkeypatch.setattr("export.to_engine.build", slow)
    with pytest.raises(ModelError, match="exported again while the compiler ran"):
        build_engine(model)
    assert (model / "model.json").read_bytes() == facts
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.onnx"]


def test_a_target_without_compiler_says_so(tmp_path):
    with pytest.raises(ConfigError, match="has no compiler"):
        build_engine(make_model(tmp_path / "m", "onnxruntime-cpu"))


def test_a_target_without_strong_typing_is_sent_to_its_script(tmp_path):
    with pytest.raises(ConfigError, match=r"TensorRT 8\.5, which has no strong typing[\s\S]*build\.sh"):
        build_engine(make_model(tmp_path / "m", "jetson-jp5"))


def test_the_rtx_compiler_takes_no_timing_cache(tmp_path):
    with pytest.raises(ConfigError, match="tensorrt-rtx has no timing cache"):
        build_engine(make_model(tmp_path / "m"), timing_cache=tmp_path / "timing.cache")


@pytest.mark.parametrize(("compiler", "module"), [("tensorrt-rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")])
def test_a_missing_compiler_names_the_package(tmp_path, monkeypatch, compiler, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=rf"apt-edge\[{compiler}\]"):
        build_engine(make_model(tmp_path / "m"), compiler)


def test_the_tool_prints_a_line_or_json(tmp_path):
    model = make_model(tmp_path / "m")
    command = [sys.executable, "-m", "export.to_engine", str(model)]
    line = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "model.engine: 2 of 2 attentions fused, 4 prompt constants, activations " in line.stdout
    assert "compiling" in line.stderr
    report = subprocess.run([*command, "--json"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(report.stdout) == entry(model)
    wrong = subprocess.run([*command, "--capability", "SM90"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "cannot compile for SM90" in wrong.stderr
