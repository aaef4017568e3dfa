"""The numbers of a row: they follow from its times, for whoever writes the row."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from apt_edge.runtime.statistics import paired_ratio, verdict
from bench import numbers

RANDOM = np.random.default_rng(0)
STEADY = 10 + 0.1 * RANDOM.standard_normal(60)


def test_a_rows_times_tell_its_numbers() -> None:
    found = numbers.timed(STEADY, 4)
    assert found["latency_ms_median"] == np.median(STEADY)
    assert found["latency_ms_per_clip"] == np.median(STEADY) / 4
    assert found["latency_cv"] == pytest.approx(STEADY.std() / STEADY.mean())
    assert found["latency_ms_max"] == STEADY.max() >= found["latency_ms_p99"] >= found["latency_ms_p90"]
    assert found["rounds"] == len(found["times_ms"]) == 60
    assert found["times_ms"] == STEADY.round(6).tolist()
    assert abs(found["latency_trend"]) < 0.02
    assert numbers.timed(STEADY[:8], 1)["latency_trend"] is None


def test_a_trend_beyond_noise_is_a_warning_and_one_too_small_to_matter_is_none() -> None:
    assert numbers.drifted(STEADY) == []
    assert numbers.drifted(STEADY[:3]) == []
    (warning,) = numbers.drifted(STEADY * np.linspace(1, 1.3, 60))
    assert warning.startswith("times changed by +")
    exact = 10 + 1e-4 * np.arange(60)
    assert numbers.drifted(exact) == []  # beyond noise, and 0.04 %


def test_the_baseline_is_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"none": STEADY, "apt": STEADY[::-1] * 1.1}
    apt, ratio = numbers.compared(times, "apt", "none"), paired_ratio(times["apt"], times["none"])
    assert tuple(apt.values()) == (*ratio, verdict(ratio)) == (*ratio, "slower")
    alone = numbers.compared(times, "apt", "none", paired=False)
    assert alone["latency_ratio"] == np.median(times["apt"]) / np.median(times["none"])
    assert (alone["latency_ratio_low"], alone["latency_ratio_high"], alone["verdict"]) == (None, None, "not paired")
    monkeypatch.setattr(numbers, "paired_ratio", None)  # a bootstrap of the baseline would call it
    for paired in (True, False):
        assert tuple(numbers.compared(times, "none", "none", paired).values()) == (1, 1, 1, "baseline")


def test_an_interval_as_tables_show_it() -> None:
    row = {"latency_ratio": 1.1, "latency_ratio_low": 1.0954, "latency_ratio_high": 1.11}
    assert numbers.interval(row) == "1.100 [1.095, 1.110]"
    assert numbers.interval(row | {"latency_ratio_low": None}) == "1.100 [not paired]"
    assert numbers.interval(dict.fromkeys(row, 1.0)) == "1"
    assert numbers.interval({}) == numbers.interval({"latency_ratio": None}) == "-"


def test_weights_have_a_digest() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    assert numbers.weights_sha256(one) != numbers.weights_sha256(other)
    other.load_state_dict(one.state_dict())
    assert numbers.weights_sha256(one) == numbers.weights_sha256(other)
    assert numbers.weights_sha256(one.half()) != numbers.weights_sha256(other)


def test_numpy_is_enough() -> None:
    code = "import sys, bench.numbers; assert not {'pydantic', 'torch', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
