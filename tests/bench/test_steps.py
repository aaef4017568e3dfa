"""A suite of training steps, really taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError
from apt_edge.runtime.statistics import paired_ratio
from bench.flops import make_method
from bench.steps import PLOT, TABLE, main, run_suite, tables
from bench.suite import StepContender, StepSuite
from tests.conftest import TINY

APT = {"tokens": 6, "start": 1}


def suite(**changes: Any) -> StepSuite:
    contenders = [
        StepContender(name="full", method="full"),
        StepContender(name="half", method="apt", settings=APT),
        StepContender(name="half, cached", method="apt", settings=APT, cached=True, against=["half"]),
    ]
    values = {"name": "tiny", "backbone": "random:tiny", "classes": 5, "baseline": "full", "rounds": 10, "warmup": 1}
    return StepSuite(**values | {"threads": 1, "contenders": contenders} | changes)


def test_rows_of_real_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    rows = run_suite(suite(), tmp_path)
    assert rows == json.loads((tmp_path / "rows.json").read_text())
    full, half, cached = rows
    assert [row["contender"] for row in rows] == ["full", "half", "half, cached"]
    assert half["trainable_parameters"] == make_method("apt", TINY, APT).parameter_count() + 5 * 64 + 5 + 128
    assert full["gmacs"] > half["gmacs"] > cached["gmacs"]
    assert full["peak_mb"] > half["peak_mb"] >= cached["peak_mb"]
    assert (full["verdict"], full["latency_ratio"], half["settings"]["dropout"]) == ("baseline", 1, 0.1)
    assert full["latency_cv"] == pytest.approx(np.std(full["times_ms"]) / np.mean(full["times_ms"]), rel=1e-4)
    (pair,) = cached["against"]
    assert pair["baseline"] == "half"
    assert pair["latency_ratio"] == pytest.approx(paired_ratio(cached["times_ms"], half["times_ms"]).median, rel=1e-4)
    assert pair["gmacs_ratio"] == cached["gmacs"] / half["gmacs"]
    assert full["environment"]["packages"]["torch"]
    assert (tmp_path / TABLE).read_text().strip() == tables(rows)
    assert (tmp_path / PLOT).read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none"}, "none is not a contender"),
        ({"rounds": 11}, "multiple of 2"),
        ({"contenders": [StepContender(name="full", method="full")] * 2}, "same name"),
    ],
)
def test_suites_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite(**changes)


def test_contenders_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="method must be one of apt"):
        StepContender(name="x", method="adapter")
    with pytest.raises(ValueError, match="did you mean tokens"):
        StepContender(name="x", method="apt", settings={"token": 3})


def test_program_names_a_missing_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench.steps", "bench/suites/steps-pico.toml"])
    with pytest.raises(ConfigError, match="did you mean steps-nano"):
        main()
