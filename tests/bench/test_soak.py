"""A stream's memory: a short run that stays within its bound, and one that grows and is told."""

from __future__ import annotations

import json
import sys
from mmap import mmap

import pytest

from apt_edge.errors import ConfigError, GateError
from apt_edge.stream.embeddings import Embeddings
from bench.soak import main, soak
from tests.export.exporting import export, target

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a process's memory")


@pytest.fixture
def model(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("onnxruntime-cpu", "split_at=[0]"), tokens=8)
    return tmp_path / "m"


def test_memory_stays_flat(model, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.soak", str(model), "--windows", "800", "--threads", "1"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert (found["windows"], found["connections"]) == (800, 2)
    assert found["growth_mb"] <= found["bound_mb"] == 4
    assert 0 < found["reuse"] < 1


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--windows", "7"], 1), (["--windows", "0"], 2), (["--bound", "nan"], 2)]
)
def test_what_proves_nothing_is_refused(model, arguments, code, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench.soak", str(model), *arguments])
    with pytest.raises(SystemExit if code == 2 else ConfigError):
        main()
    with pytest.raises(GateError):
        soak(model, 8, float("nan"), threads=1)


def test_growth_is_told(model, monkeypatch):
    kept, logits = [], Embeddings.logits

    def leaking(self, window):
        kept.append(mmap(-1, 1 << 16))  # pages of its own: the heap may have room from earlier tests
        kept[-1].write(bytes(1 << 16))
        return logits(self, window)

    monkeypatch.setattr(Embeddings, "logits", leaking)
    with pytest.raises(GateError, match=r"memory grows by .* in 400 windows"):
        soak(model, 400, 4.0, threads=1)
