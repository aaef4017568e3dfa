"""The benchmark of shared trunks on a tiny model, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError, GateError
from bench.trunk import COUNTS, check, describe, main, measure_trunk
from tests.conftest import TINY


def test_costs_are_those_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    out = tmp_path / "trunk.json"
    result = measure_trunk(out, size="tiny", tokens=4, classes=3, cuts=(1,), rounds=10, threads=1)
    assert result == json.loads(out.read_text())
    assert result["equal"] == {"cut in front of block 1": True}
    assert [(row["cut"], row["tasks"], row["rounds"]) for row in result["latency"]] == [(1, n, 10) for n in COUNTS]
    for row in result["latency"]:
        for end in ("", "_low", "_high"):
            assert row[f"cost_a_task{end}"] == row[f"latency_ratio{end}"] / row["tasks"]
        assert row["prototype"] is None
    check(result)
    with pytest.raises(GateError, match="cut in front of block 1"):
        check(result | {"equal": {"cut in front of block 1": False}})


def test_the_table_names_the_prototype_where_there_is_one() -> None:
    costs = {"cost_a_task": 0.5, "cost_a_task_low": 0.49, "cost_a_task_high": 0.51}
    rows = [
        {"cut": cut, "tasks": count, "prototype": 0.94 if (cut, count) == (6, 1) else None, **costs}
        for cut in (6, 7)
        for count in COUNTS
    ]
    whole = {"latency_ms_median": 560.0}
    text = describe({"latency": rows, "cuts": [6, 7], "whole": whole, "equal": {"cut in front of block 6": False}})
    lines = text.splitlines()
    assert lines[0] == "| prompts from block | cost a task, 1 task | cost a task, 5 tasks | cost a task, 20 tasks |"
    assert lines[2] == f"| 6 | 0.500 [0.490, 0.510] (0.94) | {' | '.join(['0.500 [0.490, 0.510]'] * 2)} |"
    assert "cut in front of block 6: NOT equal to the last bit" in text


def test_too_little_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench.trunk", "out.json", "--rounds", "9"])
    with pytest.raises(ConfigError, match="too little to measure"):
        main()
