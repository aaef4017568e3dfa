"""Every part of the GPU suite for real, without a GPU: the same code, eagerly and in float32."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.errors import AptEdgeError, GateError
from apt_edge.runtime.timing import wall_clock
from bench.flops import cost_row
from bench.gpu import latency, parity, steps, switch
from bench.gpu.clips import drawn_clips
from bench.gpu.models import CLASSES, Contender, build
from bench.gpu.record import Record
from bench.gpu.rounds import measure, statistics
from bench.gpu.running import Running, energy
from bench.rows import check_rows
from tests.bench.gpu.conftest import TRY
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("tiny_size")


def test_latency_rows_are_rows_of_a_benchmark(record: Record) -> None:
    latency.run(TRY, record)
    data = json.loads(record.path.read_text())
    assert data["failed"] == []
    check_rows(data["rows"], record.path)
    names = ["none", "APT-6", "VPT-6 folded", "VPT-6 as tokens"]
    assert [(row["batch"], row["contender"]) for row in data["rows"]] == [(b, name) for b in (1, 2) for name in names]
    for row in data["rows"]:
        published = cost_row(row["method"], TINY, {"tokens": 6} if row["tokens"] else {}, CLASSES)
        key = "gmacs_published" if "as tokens" in row["contender"] else "gmacs_deployed"
        assert row["gmacs"] == published[key]
        assert row["trainable_parameters"] == published["trainable_parameters"]
        assert row["mode"] == ("single-stream" if row["batch"] == 1 else "offline")
        assert (row["suite"], row["session"], row["precision"]) == ("gpu-tiny", "pytorch-eager", "float32")
        assert (row["clock"], row["built"]) == ("host", "apt-edge")
        assert row["contender"] != "none" or (row["latency_ratio_low"], row["latency_ratio_high"]) == (1, 1)
        assert (row["agreement"] is not None) == (row["contender"] == "none")
    assert [row["point"] and row["point"]["series"] for row in data["rows"][:4]] == [
        None,
        "APT",
        "VPT-deep folded",
        "VPT-deep as tokens",
    ]
    assert len({row["model_sha256"] for row in data["rows"]}) == 4


def test_one_size_fails_and_the_next_is_measured(record: Record) -> None:
    latency.run(replace(TRY, sizes=("pico", "tiny"), batches=(1,)), record)
    assert [entry["step"] for entry in record.data["failed"]] == ["latency pico, batch 1"]
    assert "no backbone size 'pico'" in record.data["failed"][0]["what"]
    assert len(record.data["rows"]) == 4


def test_parity_on_tuned_and_on_random_prompts(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TRAINING", 16)
    monkeypatch.setattr(parity, "VALIDATION", 4)
    parity.run(replace(TRY, rounds=2), record)
    assert record.data["failed"] == []
    rows = record.data["parity"]
    expected = ["apt-64", "vpt-deep-64", "vpt-deep-64 as tokens", "APT-6"]
    assert [(row["contender"], row["precision"]) for row in rows] == [
        (name, precision) for name in expected for precision in ("float32", "float16")
    ]
    single, half = rows[0::2], rows[1::2]
    assert all(row["max_abs"] <= 1e-5 * max(1, row["max_logit"]) for row in single)
    assert all(row["max_abs"] > 0 for row in half)  # float16 was really computed in
    assert all("tuned here in 2 steps" in row["prompts"] for row in rows[:6])
    assert "random backbone" in rows[6]["prompts"]


def test_parity_that_fails_is_a_failed_gate(record: Record) -> None:
    case = parity.random_case("tiny", TRY)
    parity.compare(case._replace(expected=case.expected + 1), TRY, {"cpu": "a processor"}, record)
    assert [row["passed"] for row in record.data["parity"]] == [False, False]
    assert all(entry["gate"] and "max |logit difference|" in entry["what"] for entry in record.data["failed"])


def test_steps_of_every_method(record: Record) -> None:
    steps.run(TRY, record)
    assert record.data["failed"] == []
    rows = {row["method"]: row for row in record.data["steps"]}
    assert list(rows) == ["full", "apt", "vpt-deep", "adaptformer"]
    full = rows["full"]
    assert (full["verdict"], full["latency_ratio"], full["gmacs_ratio"], full["batch"]) == ("baseline", 1, 1, 2)
    assert full["precision"] == "bfloat16 autocast, float32 weights"
    for method, row in rows.items():
        assert row["trainable_parameters"] == cost_row(method, TINY, row["settings"], CLASSES)["trainable_parameters"]
        assert len(row["times_ms"]) == row["rounds"] == 10
        assert row["environment"]["python"]
        assert method == "full" or row["peak_mb"] < full["peak_mb"]


def test_switches_reach_the_attention(record: Record) -> None:
    switch.run(TRY, record)
    assert record.data["failed"] == []
    rows = record.data["switch"]
    ways = ["same task", "pointer", "copy on the device"]
    assert [(row["method"], row["contender"]) for row in rows] == [
        (m, way) for m in ("apt", "vpt-deep") for way in ways
    ]
    one_head = 4 * TINY.depth * 2 * 6 * TINY.head_width  # float32 keys and values
    assert [row["prompt_bytes"] for row in rows[::3]] == [one_head, TINY.heads * one_head]
    assert all(row["switch_ms"] == 0 for row in rows[::3])
    assert {row["clock"] for row in rows} == {"host"}


def test_a_copy_that_is_not_read_is_found() -> None:
    vit = random_backbone("tiny")
    built = build(vit, Contender("APT-6", "apt", {"tokens": 6}))
    extra, head = built.module.extra, built.module.head
    clips = drawn_clips(vit.config, 1)[0]
    flats = switch.task_prompts(extra)
    pointers = [Running(switch.with_prompts(vit, head, extra, flat), clips, graph=False) for flat in flats]
    static = flats[0].clone()
    bound = Running(switch.with_prompts(vit, head, extra, static), clips, graph=False)
    switch.check(pointers, bound, static, flats)
    with pytest.raises(GateError, match="task 0 has other logits"):
        switch.check(pointers, bound, static.clone(), flats)
    with pytest.raises(GateError, match="two tasks have the same logits"):
        switch.check([bound, bound], bound, static, flats[:1] * 2)


def test_a_drift_beyond_noise_is_a_warning() -> None:
    steady, rising = np.linspace(1, 1.001, 60), np.linspace(1, 2, 60)
    times = {"a": steady, "b": rising}
    assert statistics(times, "a", "a", batch=1)["warnings"] == []
    (warning,) = statistics(times, "b", "a", batch=1)["warnings"]
    assert "not steady" in warning


def test_rounds_are_even_and_fit_the_budget() -> None:
    contenders = {"a": lambda: None, "b": lambda: None}
    assert len(measure(contenders, 13, 60, wall_clock)["a"]) == 12
    with pytest.raises(AptEdgeError, match="fewer than 10 rounds fit"):
        measure(contenders, 200, 0, wall_clock)


class Watts:
    """A meter of a device that spends so many watts, whatever it does."""

    source = "nvml"

    def __init__(self, watts: float) -> None:
        self.watts, self.spent = watts, 0.0

    def joules(self) -> float:
        self.spent += self.watts
        return self.spent

    def gone(self) -> float:
        raise OSError("nvmlDeviceGetTotalEnergyConsumption returned 15")


def test_energy_is_of_a_run_and_not_of_a_burst() -> None:
    product = torch.ones(256, 256)
    runs = {"a": lambda: torch.mm(product, product)}
    found = energy(runs, Watts(3.0), 1.0)["a"]
    assert found is not None
    assert 0 < found["joules"] < 3.0  # of many runs in a burst that spends three
    assert found["source"] == "nvml"
    assert energy(runs, None, 1) == {"a": None}
    meter = Watts(1.0)
    meter.joules = meter.gone
    assert energy(runs, meter, 0.2) == {"a": None}


def test_clips_of_the_two_splits_differ_and_repeat() -> None:
    clips, labels = drawn_clips(TINY, 3)
    again, _ = drawn_clips(TINY, 3)
    other, _ = drawn_clips(TINY, 3, "train")
    assert clips.shape == (3, 3, TINY.frames, TINY.size, TINY.size)
    assert torch.equal(clips, again)
    assert not torch.equal(clips, other)
    assert labels.tolist() == [0, 1, 2]
    assert np.isfinite(clips.numpy()).all()
