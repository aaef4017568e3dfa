"""`apt-edge time`: trtexec's numbers of one clip, in the runtimes that are here."""

from __future__ import annotations

import json
import re

import pytest

from apt_edge.runtime.clip_time import measure_session
from apt_edge.runtime.trtexec import parse_log
from tests.apt_edge.test_tensorrt import Opened, clip, task
from tests.export.exporting import export, target


def test_time_summarises_as_trtexec_does(apt_edge, tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    before = sorted(path.name for path in (tmp_path / "m").iterdir())
    done = apt_edge("time", tmp_path / "m", "--seconds", 0.05, "--warm-up", 5, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["session"], found["threads"], found["machine"]["threads"]) == ("onnxruntime-cpu", 1, 1)
    row = found["times"]["inference"]
    assert row["n"] >= 10
    assert row["n"] * row["mean"] >= 50
    assert row["min"] <= row["median"] <= row["p90"] <= row["p95"] <= row["p99"] <= row["max"]
    assert row["throughput"] == pytest.approx(1e3 / row["mean"])
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == before
    text = apt_edge("time", tmp_path / "m", "--seconds", 0.01).stdout
    latency = re.search("Latency: min = .*", text)[0]
    numbers = parse_log(f"[I] {latency}\n").metrics["latency"]
    assert set(numbers) == {"min", "max", "mean", "median", "p90", "p95", "p99"}


def test_a_split_model_is_timed_as_a_whole(apt_edge, task_models):
    done = apt_edge("time", task_models / "folded-parts", "--seconds", 0.01, "--warm-up", 1)
    assert "the whole graph with one task, not the 3 parts" in done.stdout


def test_an_engine_is_timed_by_its_device_and_with_transfers(tmp_path):
    opened = Opened(tmp_path)
    times = measure_session(opened.session(), {**clip(1), **task(1)}, seconds=0.02, warm_up_ms=1)
    assert set(times["compute"]) == {1}  # every event of this device is a millisecond after the one before
    assert len(times["compute"]) == 20
    assert len(times["with_transfers"]) >= 10
    calls = opened.calls()
    # The task's two values once, the clip in every run; the two outputs come back in those with transfers alone.
    assert calls.count("upload") == 2 + calls.count("record") / 2 + calls.count("download") / 2


def test_an_engine_that_is_not_built_is_told(apt_edge, tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("tensorrt-rtx"), tokens=8)
    done = apt_edge("time", tmp_path / "m")
    assert (done.returncode, done.stdout) == (1, "")
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--seconds", "--warm-up"])
def test_a_measurement_has_a_length(apt_edge, tmp_path, option):
    done = apt_edge("time", tmp_path, option, "nan")
    assert done.returncode == 2
    assert "nan is not a length: give a number above 0" in done.stderr
