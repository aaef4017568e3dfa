"""What `measure` and `collect` say of energy and memory."""

from __future__ import annotations

import json
import sys
from mmap import mmap
from pathlib import Path

import pytest

from apt_edge.runtime import memory, results
from apt_edge.runtime.bundle import write_sums
from apt_edge.runtime.model_dir import ModelDir
from tests.export.bundle.models import make_model

UNKNOWN = {"rss_mb": None, "activation_mb": None, "gpu_mb": None}


class Joules:
    """A meter of a device that spends so many joules between two readings."""

    source = "rapl"

    def __init__(self, each: float) -> None:
        self.each, self.spent = each, 0.0

    def joules(self) -> float:
        self.spent += self.each
        return self.spent


class Broken(Joules):
    """A meter that cannot be read any longer."""

    def joules(self) -> float:
        raise OSError("the counter is gone")


@pytest.fixture
def model(tmp_path: Path) -> ModelDir:
    return ModelDir.load(make_model(tmp_path / "m", "onnxruntime-cpu"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a process's peak")
def test_a_measurement_tells_its_energy_and_its_memory(model: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(results, "find_meter", lambda gpu: asked.append(gpu) or Joules(2.0))
    results.measure(model, seconds=0.01, threads=1)
    write_sums(model.path)
    row = results.collect(model.path)["times"]["inference"]
    assert asked == [False]
    assert row["energy"] == {"joules_per_clip": 2.0, "source": "rapl"}
    assert row["memory"] == UNKNOWN | {"rss_mb": row["memory"]["rss_mb"]}
    assert 0 <= row["memory"]["rss_mb"] < 100  # what earlier tests gave back to this process costs nothing


def test_what_is_not_metered_is_null(model: ModelDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "RESET", tmp_path / "absent" / "clear_refs")
    for meter in (None, Broken(1.0), Joules(0.0)):
        monkeypatch.setattr(results, "find_meter", lambda gpu, meter=meter: meter)
        data = results.measure(model, seconds=0.01, threads=1)
        assert (data["energy"], data["memory"]) == (None, UNKNOWN)
        assert len(data["times_ms"]) >= 10


def test_times_of_an_older_version_have_neither(model: ModelDir) -> None:
    data = results.measure(model, seconds=0.01, threads=1)
    old = {key: value for key, value in data.items() if key not in ("energy", "memory")}
    (model.path / results.TIMES).write_text(json.dumps(old))
    write_sums(model.path)
    row = results.collect(model.path)["times"]["inference"]
    assert (row["energy"], row["memory"]) == (None, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a process's peak")
def test_the_peak_is_of_what_came_after_its_reset() -> None:
    block = 64 << 20
    with mmap(-1, block) as mapped:  # what malloc gives may have been resident before
        mapped.write(bytes(1 << 20) * (block >> 20))
    assert memory.peak() >= memory.resident() + block // 2
    assert memory.reset_peak()
    assert memory.peak() < memory.resident() + block // 2


def test_without_proc_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "RESET", tmp_path)  # not a file: refuses writing
    assert (memory.resident(), memory.peak(), memory.reset_peak()) == (None, None, False)
