"""Rows that cannot be trusted are refused, and the message names file, row and key."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from apt_edge.errors import ConfigError
from apt_edge.tables import markdown_table
from bench.numbers import interval
from bench.rows import BENCH_COLUMNS, check_rows, read_list, read_rows
from tests.bench.measured import ENVIRONMENT, measured, noisy

TIMES = {"none": noisy(10.0, seed=1), "APT": noisy(11.0, seed=2)}
RATIO = measured(TIMES)[1]["latency_ratio"]
APART = {"latency_ratio_low": None, "latency_ratio_high": None, "verdict": "not paired"}


def test_rows_of_one_run_pass(tmp_path: Path) -> None:
    rows = measured(TIMES)
    check_rows(rows, "here")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read_rows(tmp_path / "rows.json") == rows
    assert rows[1]["verdict"] == "slower"
    assert "slower" in markdown_table(rows, BENCH_COLUMNS)


def test_other_keys_and_objects_are_kept() -> None:
    energy = {"joules_per_clip": 1.5, "source": "nvml"}
    memory = {"rss_mb": 100.0, "activation_mb": None, "gpu_mb": 0}
    check_rows(measured(TIMES, energy=energy, memory=memory, warmup_rounds=7, warnings=["unstable"]), "here")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"environment": None}, r"row 1 \(APT\): environment .* dictionary"),
        ({"environment": {}}, r"row 1 \(APT\): environment\.cpu is missing"),
        ({"environment": ENVIRONMENT | {"cpu": None}}, "names neither a cpu nor a board nor a gpu"),
        ({"environment": ENVIRONMENT | {"threads": "all"}}, r"environment\.threads .*, not 'all'"),
        ({"environment": ENVIRONMENT | {"threads": None}}, r"environment\.threads is null: only a row that was sent"),
        ({"environment": ENVIRONMENT | {"packages": {}}}, r"environment\.packages .*at least 1"),
        ({"environment": {key: ENVIRONMENT[key] for key in ENVIRONMENT if key != "cpu_mhz"}}, "cpu_mhz is missing"),
        ({"model_sha256": None}, "model_sha256 .*valid string"),
        ({"clock": "wall"}, "clock Input"),
        ({"built": "plain"}, "built Input"),
        ({"latency_ms_p99": float("nan")}, r"latency_ms_p99 .*finite"),
        ({"latency_ms_max": float("inf")}, r"latency_ms_max .*finite"),
        ({"gmacs": -1.0}, r"gmacs .*greater than or equal to 0"),
        ({"times_ms": [10.0, -1.0]}, r"times_ms\.1 .*greater than 0"),
        ({"times_ms": []}, "times_ms .*at least 1"),
        ({"batch": 0}, "batch .*greater than or equal to 1"),
        ({"batch": True}, "batch .*integer"),
        ({"accuracy": 71.2}, "accuracy .*less than or equal to 1"),
        ({"verdict": "best"}, "verdict .*'faster'"),
        ({"kind": "predicted"}, "kind .*'measured'"),
        ({"mode": "fast"}, "mode Input"),
        ({"point": {"axis": "weight", "value": 1.0, "series": "APT"}}, r"point\.axis"),
        ({"energy": {"joules_per_clip": 1.0}}, r"energy\.source is missing"),
        ({"latency_ms_median": 10.5}, "latency_ms_median is 10.5, its times_ms give 1[01]"),
        ({"latency_ms_p99": 10.0}, "latency_ms_p99 is 10, its times_ms give"),
        ({"latency_ms_max": 10.0}, "latency_ms_max is 10, its times_ms give"),
        ({"rounds": 39}, "rounds is 39, its times_ms give 40"),
        ({"latency_ms_per_clip": 5.0}, "latency_ms_per_clip is 5"),
        ({"latency_ratio": 0.9, "latency_ratio_low": 0.8, "latency_ratio_high": 1.2, "verdict": "no difference"},
         "latency_ratio is 0.9, the times_ms give 1.10"),
        ({"latency_ratio_low": RATIO, "latency_ratio_high": RATIO}, r"latency_ratio_low is .*; .*ratio_high is"),
        ({"verdict": "no difference"}, r"verdict no difference does not follow from latency_ratio 1\.\d+ \["),
        ({"gmacs_ratio": 1.1}, "gmacs_ratio is 1.1, the gmacs give 1"),
        ({"gmacs_ratio": None}, "gmacs_ratio is null, the gmacs give 1"),
        ({"gmacs": None}, "gmacs_ratio is 1, the gmacs give null"),
        ({"latency_trend": 0.5}, "latency_trend is 0.5, its times_ms give"),
        ({"verdict": "faster"}, r"verdict faster does not follow from latency_ratio 1\.\d+ \["),
        ({"verdict": "baseline"}, "verdict baseline, and the baseline is none"),
        ({"verdict": "not paired"}, r"latency_ratio_low is 1\.\d+, the times_ms give null"),
        (APART | {"latency_ratio": 2.0}, "latency_ratio is 2, the times_ms give 1.1"),
        (APART | {"baseline": None}, r"latency_ratio is 1\.\d+, and without a baseline there is null"),
        ({"latency_ratio": None}, "latency_ratio is null, the times_ms give 1.10"),
        ({"baseline": "linear"}, "baseline linear has no row of suite s, single-stream, batch 1"),
        ({"batch": 2, "latency_ms_per_clip": measured(TIMES)[1]["latency_ms_median"] / 2}, "no row of suite s"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_trusted_is_named(changes: dict[str, Any], complaint: str) -> None:
    rows = measured(TIMES)
    rows[1] |= changes
    with pytest.raises(ConfigError, match=rf"^here holds rows that cannot be trusted\n(.|\n)*{complaint}"):
        check_rows(rows, "here")


@pytest.mark.parametrize("key", [key for key in measured(TIMES)[0] if key != "warnings"])
def test_every_key_of_the_form_is_required(key: str) -> None:
    rows = measured(TIMES)
    del rows[0][key]
    with pytest.raises(ConfigError, match=rf"row 0 \(.*\): {key} is missing"):
        check_rows(rows, "here")


def test_pairs_have_equal_lengths() -> None:
    shorter = measured({"none": TIMES["none"][:30], "APT": TIMES["APT"][:30]})
    with pytest.raises(ConfigError, match=r"row 1 \(APT\): times_ms: 30 times, 40 of none"):
        check_rows([measured(TIMES)[0], shorter[1]], "here")


def test_rows_of_different_runs_have_no_interval() -> None:
    rows = measured(TIMES)
    rows[1] |= APART | {"latency_ratio": rows[1]["latency_ms_median"] / rows[0]["latency_ms_median"]}
    check_rows(rows, "here")
    assert interval(rows[1]).endswith("[not paired]")
    check_rows([rows[1] | {"baseline": None, "latency_ratio": None, "gmacs_ratio": None}], "here")


def test_a_winner_within_the_resolution_is_refused() -> None:
    """An interval without 1 is not enough: equal sessions differ by half a percent."""
    drift = noisy(10.0, seed=1)
    rows = measured({"none": drift, "APT": [1.004 * ms for ms in drift]})
    assert (rows[1]["latency_ratio_low"] > 1, rows[1]["verdict"]) == (True, "no difference")
    check_rows(rows, "here")
    rows[1]["verdict"] = "slower"
    with pytest.raises(ConfigError, match="verdict slower does not follow"):
        check_rows(rows, "here")


def test_a_baseline_is_exactly_itself() -> None:
    rows = measured(TIMES)
    rows[0] |= {"latency_ratio_low": 0.99}
    with pytest.raises(ConfigError, match=r"row 0 \(none\): latency_ratio_low is 0.99, the times_ms give 1\n"):
        check_rows(rows, "here")


def test_only_rows_that_were_sent_here_may_have_used_all_cores() -> None:
    source = {"form": "f", "file": "results.json", "sha256": "ab", "created": "2026-01-01"}
    check_rows(measured(TIMES, environment=ENVIRONMENT | {"threads": None}, source=source), "here")


def test_hours_of_queries_are_checked_without_resamples() -> None:
    """The baseline of MLPerf's single stream is not compared with itself by resampling."""
    times = {"none": noisy(10.0, rounds=200_000), "APT": noisy(11.0, rounds=10_000)}
    rows = [*measured({"none": times["none"]}), *measured({"none": times["none"][:10_000], "APT": times["APT"]})[1:]]
    rows[1] |= APART | {"latency_ratio": rows[1]["latency_ms_median"] / rows[0]["latency_ms_median"]}
    tracemalloc.start()
    check_rows(rows, "here")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6


def test_many_mistakes_are_counted() -> None:
    rows = [
        row | {"rounds": 39, "latency_ms_max": 1.0}
        for row in measured(dict.fromkeys(("none", "b", "c", "d"), TIMES["none"]))
    ]
    with pytest.raises(ConfigError, match=r"row 0 .*; row 2 .*; and 3 more\n"):
        check_rows(rows, "here")


def test_what_is_no_list_of_rows_is_an_instruction(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with pytest.raises(ConfigError, match="there are no results"):
        read_list(path)
    for text in ("{}", "[]", "[1]", "nonsense"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"is not (a list of rows|readable)"):
            read_list(path)
