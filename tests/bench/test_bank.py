"""The bank's benchmark on a tiny model: real runs, and what is promised judged."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError, GateError
from bench.bank import BOUND, FOLDED, FREE, SEVERAL, SWITCHED, check, describe, main, measure_bank
from tests.conftest import TINY


def test_bound_tasks_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    out = tmp_path / "bank.json"
    result = measure_bank(out, size="tiny", tokens=4, classes=3, many=30, rounds=10, threads=1)
    assert result == json.loads(out.read_text())
    rows = {row["contender"]: row for row in result["latency"]}
    assert {name: row["baseline"] for name, row in rows.items()} == {
        **dict.fromkeys((FOLDED, BOUND, FREE), FOLDED),
        SWITCHED: BOUND,
    }
    assert all(row["rounds"] == 10 for row in rows.values())
    assert len(result["equal"]) == 4
    assert all(result["equal"].values())
    assert result["memory"]["values_mb"] == pytest.approx(4e-6 * (2 * 2 * 4 * 32 + 64 * 3 + 3))
    assert (result["memory"]["load_ms"]["n"], result["many"]) == (30, 30)
    assert f"{FREE}: " in describe(result)


GOOD = {
    "many": 1000,
    "file_mb": 1.25,
    "equal": {"folded and bound": True},
    "switch_ms": {"median": 0.001, "p99": 0.01},
    "memory": {
        "mb_a_task": 2.49,
        "mb_of_several": 48.0,
        "values_mb": 2.47,
        "load_ms": {"median": 3.0},
        "switch_ms": {"median": 0.001, "p99": 0.01},
    },
    "latency": [
        {"contender": SWITCHED, "baseline": BOUND, "latency_ms_median": 560.0}
        | {"latency_ratio": 1.001, "latency_ratio_low": 0.997, "latency_ratio_high": 1.005}
    ],
}


def changed(**changes: object) -> dict[str, object]:
    """`GOOD` with other values by dotted keys."""
    result = copy.deepcopy(GOOD)
    for key, value in changes.items():
        *path, last = key.split("__")
        place: object = result
        for step in path:
            place = place[int(step) if step.isdecimal() else step]  # type: ignore[index]
        place[last] = value  # type: ignore[index]
    return result


def test_what_is_promised_is_judged() -> None:
    check(GOOD)
    check(changed(memory__mb_a_task=None, memory__mb_of_several=None))  # not Linux
    assert f"{SEVERAL} tasks 48.0 MB over one, 2.490 MB each" in describe(GOOD)
    broken = [
        ({"equal": {"folded and bound": False}}, "not equal: folded and bound"),
        ({"memory__mb_a_task": 2.6}, "2.6 MB a task, 2.5 allowed"),
        ({"memory__mb_of_several": 301}, "301 MB of 20 tasks"),
        ({"switch_ms": {"median": 0.1, "p99": 1.2}}, "1.2 ms of a switch"),
        ({"latency__0__latency_ratio_high": 1.02}, "cannot tell"),
        ({"latency__0__latency_ratio_high": 1.02, "latency__0__latency_ratio_low": 1.015}, "1.01 allowed$"),
    ]
    for changes, message in broken:
        with pytest.raises(GateError, match=rf"(?sm){message}"):
            check(changed(**changes))


@pytest.mark.parametrize("argument", [["--rounds", "9"], ["--many", str(SEVERAL)]])
def test_too_little_to_measure(argument: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench.bank", "out.json", *argument])
    with pytest.raises(ConfigError, match="too little to measure"):
        main()
