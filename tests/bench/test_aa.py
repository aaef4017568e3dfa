"""Equal sessions, really measured, and the gate on how often they are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError, GateError
from apt_edge.runtime.statistics import Ratio, verdict
from bench.aa import RESULT, check, describe, main, measure_equals
from tests.conftest import TINY


def test_every_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    result = measure_equals("tiny", 2, 10, tmp_path / "aa", tmp_path / "models")
    assert result == json.loads((tmp_path / "aa" / RESULT).read_text())
    assert (result["runs"], result["rounds"], result["environment"]["threads"]) == (2, 10, 1)
    assert len(result["ratios"]) == 2
    for ratio in result["ratios"]:
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["verdict"] == verdict(Ratio(ratio["median"], ratio["low"], ratio["high"]))
    assert result["winners"] == sum(ratio["verdict"] != "no difference" for ratio in result["ratios"])
    outside = [not ratio["low"] <= 1 <= ratio["high"] for ratio in result["ratios"]]
    assert result["winners"] <= result["excludes_one"] == sum(outside)
    off = sorted(abs(ratio["median"] - 1) for ratio in result["ratios"])
    assert result["off_one"] == {"median": pytest.approx(sum(off) / 2), "p95": off[1], "max": off[1]}
    (sidecar,) = (tmp_path / "models").rglob("model.json")
    assert result["model_sha256"] == json.loads(sidecar.read_text())["onnx_sha256"]


def test_at_most_five_of_a_hundred() -> None:
    off_one = {"median": 0.001, "p95": 0.0034, "max": 0.0048}
    result = {"runs": 100, "rounds": 40, "winners": 5, "excludes_one": 23, "off_one": off_one}
    result["ratios"] = [{"low": 0.99, "high": 1.02}] * 100
    check(result)  # on winners: how many intervals exclude 1 is told and not judged
    assert describe(result).startswith("5 of 100 runs of 40 rounds named a winner")
    assert "23 of 100 intervals exclude 1; they are 3.0% wide" in describe(result)
    assert "0.10% from 1 (median), 0.34% (95th percentile), 0.48% at most" in describe(result)
    with pytest.raises(GateError, match="6 of 100"):
        check(result | {"winners": 6})


@pytest.mark.parametrize("argument", [["--runs", "0"], ["--rounds", "8"]])
def test_too_little_to_compare(argument: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench.aa", *argument])
    with pytest.raises(ConfigError, match="nothing to compare"):
        main()
