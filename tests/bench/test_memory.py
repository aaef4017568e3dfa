"""Memory of contenders in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from apt_edge.errors import ConfigError, ModelError
from bench.memory import _measured, main, memory_of
from bench.suite import RandomModel

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a process's peak")

NANO_WEIGHTS_MB = 4 * 2.741952


def test_a_graph(exported: Path) -> None:
    description = {"session": "onnxruntime-cpu", "threads": 1, "batch": 1, "model": str(exported / "apt")}
    found = memory_of(description)
    assert found == {"rss_mb": found["rss_mb"], "activation_mb": None, "gpu_mb": None}
    weights_mb = (exported / "apt" / "model.onnx").stat().st_size / 1e6
    assert weights_mb < found["rss_mb"] < 200  # the libraries themselves are far larger, and do not count


def test_a_module_and_its_batches() -> None:
    request = RandomModel(size="nano", method="linear").model_dump()
    one, many = (
        memory_of({"session": "pytorch-eager", "threads": 1, "batch": batch, "random": request})["rss_mb"]
        for batch in (1, 16)
    )
    hidden_mb = 4 * 144 * 768 / 1e6  # of one clip's widest tensor, in float32
    assert NANO_WEIGHTS_MB < one < 200
    assert many - one > 15 * hidden_mb


@pytest.mark.parametrize("kind", ["absent", "not allowed"])
def test_a_peak_that_may_be_an_earlier_one_is_not_told(
    kind: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "folder"
    refusing.mkdir()  # cannot be written, whoever tries
    monkeypatch.setattr(
        "apt_edge.runtime.memory.RESET", refusing if kind == "not allowed" else tmp_path / "no" / "clear_refs"
    )
    description = {"session": "onnxruntime-cpu", "threads": 1, "batch": 1, "model": str(exported / "apt")}
    assert _measured(description) == {"rss_mb": None, "activation_mb": None, "gpu_mb": None}
    module = {"session": "pytorch-eager", "threads": 1, "batch": 1}
    module["random"] = RandomModel(size="nano", method="linear").model_dump()
    assert _measured(module)["rss_mb"] is None


def test_what_cannot_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"(?s)process of its own.*is not an exported model"):
        memory_of({"session": "onnxruntime-cpu", "threads": 1, "batch": 1, "model": str(tmp_path)})
    for text in ("nothing", "[]", '{"session": "onnxruntime-cpu"}'):
        monkeypatch.setattr("sys.argv", ["bench.memory", text])
        with pytest.raises(ConfigError, match="no JSON object with session, threads, batch"):
            main()
