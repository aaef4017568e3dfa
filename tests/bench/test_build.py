"""Random models, exported by us and plainly, with and without a free batch axis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.runtime.model_dir import INPUT, ModelDir
from apt_edge.runtime.sessions import SESSIONS
from bench.build import TARGET_OF, build, random_clips
from bench.graph import graph_macs
from bench.suite import RandomModel
from tests.bench.conftest import TOKENS
from tests.conftest import TINY, TINY_CLIP

APT = {"size": "tiny", "method": "apt", "settings": {"tokens": TOKENS}, "classes": 7}
VPT = {"size": "tiny", "method": "vpt-deep", "settings": {"tokens": TOKENS}, "as_tokens": True, "classes": 7}
LINEAR = {"size": "tiny", "method": "linear", "classes": 7}
BFLOAT16 = 3e-2


@pytest.fixture(autouse=True)
def _tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)


def logits(path: Path, name: str, frames: np.ndarray, rows: int) -> np.ndarray:
    model = ModelDir.load(path)
    session = SESSIONS[name](model.onnx, 1)
    batches = [frames[start : start + rows] for start in range(0, len(frames), rows)]
    return np.concatenate([session.run({INPUT: batch})["logits"] for batch in batches])


def test_random_models_are_built_once(tmp_path: Path) -> None:
    request = RandomModel(**VPT)
    path = build(request, "onnxruntime-cpu", tmp_path)
    older = tmp_path / f"{path.name[:-12]}{'0' * 12}"
    written = (path / "model.onnx").stat().st_mtime_ns
    assert build(request, "onnxruntime-cpu", tmp_path) == path
    assert (path / "model.onnx").stat().st_mtime_ns == written
    path.rename(older)  # as if the sources had changed since
    assert build(request, "onnxruntime-cpu", tmp_path) == path
    assert not older.exists()
    facts = json.loads((path / "model.json").read_text())
    assert facts["trainable_parameters"] == 2 * TOKENS * 64 + 7 * 64 + 7 + 2 * 64
    assert facts["prompts"] == []


def test_plain_and_own_exports_are_the_same_function(tmp_path: Path) -> None:
    frames = random_clips(TINY_CLIP, 2)
    plain = logits(build(RandomModel(**APT, export="plain"), "onnxruntime-cpu", tmp_path), "onnxruntime-cpu", frames, 1)
    assert np.abs(plain[0] - plain[1]).max() > 1e-2  # clips differ, so a session that reads them wrongly would show
    for name, tolerance in (("onnxruntime-cpu", 1e-5), ("openvino-float32", 1e-5), ("openvino-bfloat16", BFLOAT16)):
        found = logits(build(RandomModel(**APT), name, tmp_path), name, frames, 1)
        np.testing.assert_allclose(found, plain, rtol=0, atol=tolerance)
    graphs = {path.name.rpartition("-")[0]: path for path in tmp_path.glob("*-*")}
    assert len(graphs) == 3  # plain, ONNX Runtime's own, OpenVINO's own for both of its sessions


def test_hugging_faces_plain_export_is_the_same_function(tmp_path: Path) -> None:
    frames = random_clips(TINY_CLIP, 2)
    own = logits(build(RandomModel(**LINEAR), "onnxruntime-cpu", tmp_path), "onnxruntime-cpu", frames, 1)
    theirs = build(RandomModel(**LINEAR, huggingface=True, export="plain"), "onnxruntime-cpu", tmp_path)
    assert np.abs(own).max() > 1e-2
    np.testing.assert_allclose(logits(theirs, "onnxruntime-cpu", frames, 1), own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("request_", [APT, APT | {"export": "plain"}, VPT], ids=["apt", "plain", "vpt-tokens"])
def test_a_free_batch_axis(request_: dict, tmp_path: Path) -> None:
    frames = random_clips(TINY_CLIP, 4)
    one = build(RandomModel(**request_), "onnxruntime-cpu", tmp_path)
    many = build(RandomModel(**request_), "onnxruntime-cpu", tmp_path, batch=4)
    assert one != many
    assert graph_macs(many / "model.onnx") == graph_macs(one / "model.onnx")  # of one clip
    expected = logits(one, "onnxruntime-cpu", frames, 1)
    for rows in (1, 2, 4):
        np.testing.assert_allclose(logits(many, "onnxruntime-cpu", frames, rows), expected, rtol=0, atol=1e-5)


def test_every_session_for_graphs_has_a_target() -> None:
    assert set(TARGET_OF) == set(SESSIONS)
