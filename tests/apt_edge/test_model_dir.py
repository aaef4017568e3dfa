"""An exported directory that is damaged or incomplete ends in an instruction, whatever reads it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from safetensors.numpy import save_file

from apt_edge.errors import ModelError
from apt_edge.files import sha256
from apt_edge.runtime.bundle import write_sums
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.results import collect
from apt_edge.runtime.selftest import golden
from apt_edge.runtime.sessions import open_session
from apt_edge.runtime.tasks import own_task
from export.to_bundle import to_bundle
from export.to_engine import build_engine
from tests.export.bundle.models import make_model


def change(path, **facts):
    """Change facts of a sidecar; None removes one."""
    known = json.loads((path / "model.json").read_text()) | facts
    (path / "model.json").write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


@pytest.mark.parametrize("content", [b'{"labels": "\xff"}', b"", b"{", b"[]", b"{}"])
def test_a_damaged_sidecar_is_refused(tmp_path, content):
    path = make_model(tmp_path / "m", "onnxruntime-cpu")
    (path / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json is damaged"):
        ModelDir.load(path)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"inputs": None}, "no inputs"),
        ({"inputs": {"x": {}}}, "inputs without clip"),
        ({"inputs": {"clip": {"dtype": "uint7", "shape": [1], "profile": None}}}, "inputs.clip .*uint7"),
        ({"inputs": {"clip": {"dtype": "uint8", "shape": "1", "profile": None}}}, "inputs.clip"),
        ({"inputs": {"clip": {"dtype": "uint8", "shape": [1, 2], "profile": [[1], [1], [1]]}}}, "inputs.clip"),
        ({"parts": [{"file": "part0.onnx"}]}, "parts"),
        ({"parts": [{"file": "../part0.onnx", "sha256": ""}]}, "parts"),
        ({"target": {"name": "x", "runtime": "tpu"}}, "target.runtime tpu"),
    ],
)
def test_a_sidecar_that_lacks_what_is_needed_is_refused_at_once(tmp_path, facts, found):
    path = make_model(tmp_path / "m", "onnxruntime-cpu")
    assert ModelDir.load(path).parts() == []
    change(path, **facts)
    with pytest.raises(ModelError, match=rf"(?s)model\.json is damaged.*found: {found}.*export\.to_onnx again"):
        ModelDir.load(path)


def test_other_prompts_than_the_sidecars_are_refused(tmp_path):
    path = make_model(tmp_path / "m", "onnxruntime-cpu", bound=True)
    change(path, prompts_sha256=sha256(path / "prompts.safetensors"))
    assert own_task(ModelDir.load(path)).values
    arrays = ModelDir.load(path).prompts
    save_file({name: array + 1 for name, array in arrays.items()}, path / "prompts.safetensors")
    with pytest.raises(ModelError, match=r"(?s)is not the file that model\.json describes.*copy the whole"):
        own_task(ModelDir.load(path))
    change(path, prompts_sha256=None)  # as older versions wrote it
    assert own_task(ModelDir.load(path)).values
    save_file({name: array[:, :1] for name, array in arrays.items()}, path / "prompts.safetensors")
    with pytest.raises(ModelError, match=r"(?s)is of another model.*prompt_key.*copy the whole"):
        own_task(ModelDir.load(path))


def test_a_model_without_target_is_refused_where_one_is_needed(tmp_path):
    path = make_model(tmp_path / "m", "onnxruntime-cpu")
    change(path, target=None)
    write_sums(path)
    for step in (lambda: open_session(ModelDir.load(path)), lambda: build_engine(path), lambda: to_bundle(path)):
        with pytest.raises(ModelError, match="names no target"):
            step()
    with pytest.raises(ModelError, match="names no target"):
        collect(path)


def test_a_target_of_another_version_is_refused(tmp_path):
    path = make_model(tmp_path / "m", "jetson-jp72")
    target = json.loads((path / "model.json").read_text())["target"]
    change(path, target=target | {"later": 1})
    with pytest.raises(ModelError, match=r"is not one of this version[\s\S]*later: [\s\S]*export again"):
        build_engine(path)


@pytest.mark.parametrize("keep", [0, 5, 60])
def test_cut_files_beside_the_graph_are_refused(tmp_path, keep):
    model = ModelDir.load(make_model(tmp_path / "m", "onnxruntime-cpu", bound=True))
    for name in ("golden.npz", "prompts.safetensors"):
        (model.path / name).write_bytes((model.path / name).read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"golden\.npz cannot be read"):
        golden(model)
    with pytest.raises(ModelError, match=r"prompts\.safetensors is damaged"):
        _ = model.prompts


def test_without_safetensors_the_fix_is_named(tmp_path):
    path = make_model(tmp_path / "m", "onnxruntime-cpu", bound=True)
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        f"sys.argv = ['apt-edge', 'time', {str(path)!r}]\n"
        "from apt_edge.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("apt-edge: safetensors is not installed")
    assert "pip install" in done.stderr


@pytest.mark.parametrize("content", ["", "{", "{}", "null", '"text"', "\xff"])
def test_damaged_reports_stand_in_the_results(tmp_path, content):
    path = make_model(tmp_path / "m", "onnxruntime-cpu")
    write_sums(path)
    for name in ("selftest.json", "times.json"):
        (path / name).write_text(content, encoding="latin-1")
    failed = {entry["step"]: entry["what"] for entry in collect(path)["failed"]}
    assert set(failed) == {"selftest", "inference"}
    assert all("damaged" in what for what in failed.values())
