"""Which engines are loaded: those that this graph's sidecar or `engine.json` names by their sha256, and no others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from apt_edge.errors import AptEdgeError, ModelError
from apt_edge.files import sha256
from apt_edge.runtime.bundle import load_bundle, write_sums
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.sessions import open_session
from export.to_engine import build_engine
from tests.export.bundle.models import make_model
from tests.export.engine.graphs import make_model as make_compilable


def trust(path):
    return subprocess.run(
        [sys.executable, "-m", "apt_edge.cli", "bundle", "trust", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_engine_of_export_to_engine_is_trusted_until_it_changes(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    path = make_compilable(tmp_path / "m", "tensorrt-rtx")
    build_engine(path)
    model = ModelDir.load(path)
    assert model.trusted_engine() == path / "model.engine"
    data = bytearray(model.engine.read_bytes())
    data[-1] ^= 1
    model.engine.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"is not trusted[\s\S]*sha256 [0-9a-f]{64}[\s\S]*apt-edge bundle trust"
    ) as error:
        open_session(model)
    assert sha256(model.engine) in str(error.value)


def test_trust_is_for_one_engine_of_one_graph(tmp_path):
    path = make_model(tmp_path / "m", "jetson-jp72")
    write_sums(path)
    done = trust(path)
    assert (done.returncode, "has no model.engine" in done.stderr) == (1, True)
    (path / "model.engine").write_bytes(b"built here")
    with pytest.raises(ModelError, match="is not trusted"):
        load_bundle(path).trusted_engine()
    assert trust(path).returncode == 0
    model = load_bundle(path)  # SHA256SUMS says nothing of engine.json
    assert model.trusted_engine().read_bytes() == b"built here"
    entry = json.loads((path / "engine.json").read_text())
    assert entry == {"engine_sha256": sha256(model.engine), "onnx_sha256": model.facts["onnx_sha256"]}
    (path / "engine.json").write_text(json.dumps(entry | {"onnx_sha256": "of another export"}))
    with pytest.raises(ModelError, match="is not trusted"):
        model.trusted_engine()
    (path / "engine.json").write_text("{")
    with pytest.raises(ModelError, match=r"engine\.json is damaged"):
        model.trusted_engine()
    assert trust(path).returncode == 0
    model.engine.write_bytes(b"another one")
    with pytest.raises(ModelError, match="is not trusted"):
        model.trusted_engine()


def test_nothing_is_vouched_for_in_a_bundle_that_changed(tmp_path):
    path = make_model(tmp_path / "m", "jetson-jp72")
    write_sums(path)
    (path / "model.engine").write_bytes(b"built here")
    (path / "golden.npz").write_bytes(b"changed")
    done = trust(path)
    assert (done.returncode, "golden.npz has changed" in done.stderr) == (1, True)
    assert not (path / "engine.json").exists()


def test_a_trusted_engine_needs_its_runtime_and_a_gpu(tmp_path):
    path = make_compilable(tmp_path / "m", "tensorrt-rtx")
    (path / "model.engine").write_bytes(b"built here")
    ModelDir.load(path).trust_engine()
    with pytest.raises(
        AptEdgeError, match=r"tensorrt-rtx is not here|finds no NVIDIA GPU|cannot load|too little memory"
    ):
        open_session(ModelDir.load(path))
