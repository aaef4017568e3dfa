"""Two runs: what is slower is found, what the machine did is not called, what cannot be told is said."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_edge.errors import ConfigError, GateError
from apt_edge.files import write_json
from apt_edge.runtime.statistics import Ratio
from bench.compare import check_slower, compare, judge, only_in, percent, ratio_of_ratios
from bench.rows import check_rows
from tests.bench.measured import ENVIRONMENT, measured


def run(
    seed: int, slower: float = 1.0, machine: float = 1.0, drift: float = 0.0, rounds: int = 40
) -> list[dict[str, Any]]:
    """Rows of one run: the contenders share what the machine does in each round, and have 1 % of noise of their own."""
    random = np.random.default_rng(seed)
    shared = machine * (1 + drift * np.linspace(0, 1, rounds)) * (1 + 0.05 * np.abs(random.normal(size=rounds)))
    base = {"none": 10.0, "APT": 10.3, "VPT": 13.0 * slower}
    times = {name: ms * shared * (1 + 0.01 * random.normal(size=rounds)) for name, ms in base.items()}
    rows = measured({name: [float(t) for t in values] for name, values in times.items()})
    check_rows(rows, "here")
    return rows


def test_a_run_against_itself_is_no_difference() -> None:
    rows = run(0)
    none, apt, vpt = compare(rows, rows)
    assert (none["verdict"], none["why"], none["change"]) == ("cannot tell", "it is the baseline", None)
    for row in (apt, vpt):
        assert (row["verdict"], row["beyond_limit"], row["model_changed"]) == ("no difference", "no", False)
        assert row["change"] == 1
        assert row["change_low"] < 1 < row["change_high"]


@pytest.mark.parametrize("seed", range(5))
def test_five_percent_are_found(seed: int) -> None:
    before, after = run(seed), run(seed + 100, slower=1.05)
    _, apt, vpt = compare(before, after)
    assert vpt["verdict"] == "slower"
    assert vpt["change"] == pytest.approx(1.05, abs=0.01)
    assert apt["verdict"] != "slower"
    _, _, faster = compare(after, before)
    assert faster["verdict"] == "faster"
    assert faster["change"] == pytest.approx(1 / vpt["change"])
    check_slower([apt], 0.03)


@pytest.mark.parametrize("seed", range(5))
def test_a_slower_machine_is_not_called(seed: int) -> None:
    """Half as fast, and getting slower by a fifth while it runs: the ratios to the baseline do not move."""
    rows = compare(run(seed), run(seed + 100, machine=2.0, drift=0.2))
    assert rows[1]["median_ms_after"] > 2 * rows[1]["median_ms_before"]
    assert {row["beyond_limit"] for row in rows} == {None, "no"}
    check_slower(rows, 0.03)


def test_equal_runs_are_told_apart_in_few_cases() -> None:
    called = [
        row["verdict"] for seed in range(200) for row in compare(run(seed, rounds=20), run(seed + 1000, rounds=20))
    ]
    wrong = called.count("slower") + called.count("faster")
    assert wrong <= 0.05 * 400
    assert called.count("no difference") >= 0.5 * 400


def test_intervals_of_independent_runs_are_joined() -> None:
    sure, unsure = Ratio(1.3, 1.3, 1.3), Ratio(1.3, 1.2, 1.4)
    same = ratio_of_ratios(sure, unsure)
    assert (same.median, same.low, same.high) == pytest.approx((1, 1.2 / 1.3, 1.4 / 1.3))
    turned = ratio_of_ratios(unsure, sure)
    assert (turned.median, turned.low, turned.high) == pytest.approx((1, 1.3 / 1.4, 1.3 / 1.2))
    both = ratio_of_ratios(Ratio(1.0, np.exp(-0.03), np.exp(0.03)), Ratio(1.1, 1.1 * np.exp(-0.04), 1.1 * np.exp(0.04)))
    assert (both.median, both.low, both.high) == pytest.approx((1.1, 1.1 * np.exp(-0.05), 1.1 * np.exp(0.05)))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.006, 1.2, "slower"),
        (0.8, 0.994, "faster"),
        (1.001, 1.02, "no difference"),  # equal sessions differ by as much
        (1.001, 1.2, "cannot tell"),
        (0.98, 0.999, "no difference"),
        (0.98, 1.02, "no difference"),
        (0.98, 1.05, "cannot tell"),
        (0.9, 1.01, "cannot tell"),
    ],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert judge(Ratio((low + high) / 2, low, high), 0.03) == verdict


def test_other_machines_are_refused_unless_allowed() -> None:
    before = run(0)
    after = [
        row | {"environment": ENVIRONMENT | {"threads": 2, "cpu": "Other"}, "precision": "float16"} for row in before
    ]
    with pytest.raises(
        ConfigError, match=r"cpu: Some CPU, Other; threads: 1, 2; precision: float32, float16\n.*--across"
    ):
        compare(before, after)
    rows = compare(before, after, across_machines=True)
    assert rows[1]["hardware"] == ["cpu: Some CPU, Other", "threads: 1, 2", "precision: float32, float16"]
    with pytest.raises(ConfigError, match="clock: host, cuda events"):
        compare(before, [row | {"clock": "cuda events"} for row in before])
    modes = [ENVIRONMENT | {"commands": {"nvpmodel -q": f"NV Power Mode: {mode}"}} for mode in ("MAXN", "15W")]
    with pytest.raises(ConfigError, match="power mode: NV Power Mode: MAXN, NV Power Mode: 15W"):
        compare(
            [row | {"environment": modes[0]} for row in before], [row | {"environment": modes[1]} for row in before]
        )


def test_what_cannot_be_compared_is_said() -> None:
    before = run(0)
    apart = {"verdict": "not paired", "latency_ratio_low": None, "latency_ratio_high": None}
    _, apt, vpt = compare(before, [before[0], before[1] | apart, before[2] | {"model_sha256": "cd" * 32}])
    assert (apt["verdict"], apt["why"]) == ("cannot tell", "not measured in turns with a baseline")
    assert (vpt["verdict"], vpt["model_changed"]) == ("no difference", True)  # another model is the point
    with pytest.raises(ConfigError, match=r"nothing can be compared\n.*none: it is the baseline"):
        check_slower(compare(before[:1], before[:1]), 0.03)
    other = measured({"VPT": before[2]["times_ms"], "APT": before[1]["times_ms"]}, baseline="VPT")
    assert compare(before, other)[0]["why"] == "the baselines are none and VPT"
    with pytest.raises(ConfigError, match="no contender in common"):
        compare(before, [row | {"session": "tensorrt"} for row in before])


def test_the_gate_fails_beyond_the_limit_and_warns_across_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare(run(0), run(100, slower=1.05))
    with pytest.raises(GateError, match=r"slower than before by more than 3\.0%\n.*VPT \(onnxruntime-cpu\): 1\.0"):
        check_slower(compare(run(0), run(100, slower=1.08)), 0.03)
    assert rows[2]["change_low"] < 1.05 < rows[2]["change_high"]
    check_slower(compare(run(0), run(100, slower=1.05), limit=0.05), 0.05)
    assert "perhaps more than 5.0% slower" in capsys.readouterr().err


def test_a_contender_that_is_missing_after_fails_the_gate() -> None:
    before = run(0)
    after = before[:2]
    missing = only_in(before, after)
    assert (missing, only_in(after, before)) == (["VPT (onnxruntime-cpu, batch 1)"], [])
    with pytest.raises(GateError, match=r"not in the run after\n.*VPT \(onnxruntime-cpu, batch 1\)"):
        check_slower(compare(before, after), 0.03, missing)
    other = [*after, before[2] | {"session": "openvino-float32"}]  # of that name, in another session
    assert only_in(before, other) == missing


@pytest.mark.parametrize(("text", "value"), [("3%", 0.03), ("0.03", 0.03), ("2.5%", 0.025)])
def test_limits(text: str, value: float) -> None:
    assert percent(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["3", "-1%", "0", "fast", "3%x", "100%", "nan"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no limit"):
        percent(text)


def test_program(tmp_path: Path) -> None:
    for name, rows in (("a", run(0)), ("b", run(100, slower=1.1))):
        write_json(tmp_path / name / "rows.json", rows)
    command = [sys.executable, "-m", "bench.compare", str(tmp_path / "a")]

    def done(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    same = done(str(tmp_path / "a" / "rows.json"), "--fail-if-slower", "3%")
    assert (same.returncode, same.stdout.count("no difference")) == (0, 2), same.stderr
    slower = done(str(tmp_path / "b"), "--fail-if-slower", "3%", "--json")
    assert slower.returncode == 4
    assert "slower than before by more than 3.0%" in slower.stderr
    assert [row["verdict"] for row in json.loads(slower.stdout)][2] == "slower"
    assert done(str(tmp_path / "b")).returncode == 0
    write_json(tmp_path / "less" / "rows.json", run(0)[:2])
    less = done(str(tmp_path / "less"), "--fail-if-slower", "3%")
    assert (less.returncode, "VPT (onnxruntime-cpu, batch 1)" in less.stderr) == (4, True)
    assert done(str(tmp_path / "less")).returncode == 0
    missing = done(str(tmp_path / "c"))
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
