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
    (sidecar,) = (tmp_path / "models").rglob("model.json")
    assert result["model_sha256"] == json.loads(sidecar.read_text())["onnx_sha256"]


def test_at_most_five_of_a_hundred() -> None:
    result = {"runs": 100, "rounds": 40, "winners": 5, "ratios": [{"low": 0.99, "high": 1.02}] * 100}
    check(result)
    assert describe(result).startswith("5 of 100 runs of 40 rounds named a winner")
    assert "3.0% wide" in describe(result)
    with pytest.raises(GateError, match="6 of 100"):
        check(result | {"winners": 6})


@pytest.mark.parametrize("argument", [["--runs", "0"], ["--rounds", "8"]])
def test_too_little_to_compare(argument: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench.aa", *argument])
    with pytest.raises(ConfigError, match="nothing to compare"):
        main()
