"""What the report computes from rows: slopes, comparisons with what users would pick, Figure 5, claims, limits."""

from __future__ import annotations

import numpy as np
import pytest

from apt_edge.tables import Row
from bench.figures.accuracy import pareto_front
from bench.figures.style import COLOURS, looks, marker
from bench.flops import cost_row, size_by_name
from bench.page.claims import claims, heading
from bench.page.limits import limits
from bench.page.prompts import cost_rows, prompt_costs
from bench.page.rivals import against_picks
from bench.page.series import find_series, slope_row
from bench.sent import BUNDLE
from tests.bench.rows_example import EQUAL, prompt_rows, suite_rows


def sweep(slope: float, *, axis: str = "frames", session: str = "onnxruntime-cpu", noise: int = 0) -> list[Row]:
    """Time is 10 ms + slope x value, GMACs are 1 + value / 10."""
    return suite_rows(
        *(
            {"contender": f"ours {value}", "ms": 10 + slope * value, "gmacs": 1 + value / 10}
            | {"point": {"axis": axis, "value": value, "series": "ours"}}
            for value in (4, 8, 16, 32)
        ),
        session=session,
        seed=noise,
        rounds=40,
    )


def test_slopes_are_found_with_their_intervals() -> None:
    held = 0
    for seed in range(40):
        (line,) = find_series(sweep(2.0, noise=seed))
        held += line.low <= 2.0 * 1.008 <= line.high  # the example's noise adds 0.8 % on average
        assert line.slope == pytest.approx(2.0, rel=0.03)
    assert held >= 36
    assert (line.axis, line.name, line.values) == ("frames", "ours", [4, 8, 16, 32])
    assert line.residual < 0.02


def test_the_slope_by_gmacs_takes_the_price_of_the_baseline() -> None:
    rows = sweep(2.0)
    (line,) = find_series(rows)
    price = rows[0]["latency_ms_median"] / rows[0]["gmacs"]
    assert line.predicted_ms == pytest.approx([price * (1 + value / 10) for value in (4, 8, 16, 32)])
    assert line.predicted_slope == pytest.approx(price / 10)
    assert slope_row(line)["predicted_slope_ms"] == line.predicted_slope
    for row in rows:
        row["gmacs"] = None
    (line,) = find_series(rows)
    assert line.predicted_slope is None


def test_a_curve_is_not_called_straight() -> None:
    rows = suite_rows(
        *(
            {"contender": f"n {v}", "ms": 1 + v * v, "point": {"axis": "size", "value": v, "series": "n"}}
            for v in (1, 2, 3, 4, 5)
        )
    )
    (line,) = find_series(rows)
    assert line.residual > 0.5


def test_batches_of_a_contender_are_a_series() -> None:
    rows = [
        row
        for batch in (1, 2, 4)
        for row in suite_rows({"contender": "none", "ms": 10 * batch}, mode="offline", batch=batch)
    ]
    (line,) = find_series(rows)
    assert (line.axis, line.name, line.values) == ("batch", "none", [1, 2, 4])
    assert line.slope == pytest.approx(10, rel=0.03)
    assert line.predicted_ms[2] == pytest.approx(4 * line.predicted_ms[0])
    assert find_series([row | {"mode": "mlperf"} for row in rows]) == []
    assert find_series(rows[:2]) == []


def alone(rows: list[Row]) -> list[Row]:
    """The same as rows of bundles: each is the baseline of its batch, or not paired with it."""
    for row in rows:
        row["source"] = {"form": BUNDLE, "file": "results.json", "sha256": "ab", "created": "2026-01-01"}
        if row["verdict"] != "baseline":
            row |= {"latency_ratio_low": None, "latency_ratio_high": None, "verdict": "not paired"}
    return rows


def test_rows_that_were_never_interleaved_have_no_slopes_and_are_not_called_so() -> None:
    for rows in (prompt_rows(), prompt_rows(mode="mlperf"), sweep(2.0)):
        assert find_series(rows) or rows[0]["mode"] == "mlperf"
        assert find_series(alone(rows)) == []
    text = " ".join(claims(alone(prompt_rows()), []))
    assert "interleaved" not in text
    assert "7 contenders, each measured alone, so that no ratio has an interval and no winner is named" in text
    batches = [
        row
        for batch in (1, 4, 8)
        for row in suite_rows({"contender": "none", "ms": batch}, batch=batch, mode="offline")
    ]
    assert find_series(batches)
    assert find_series(alone(batches)) == []  # three baselines, measured on three days
    assert "1 contender, each measured alone" in claims(batches, [])[0]


def test_contenders_named_by_their_prompts_are_series_from_the_model_without() -> None:
    lines = find_series(prompt_rows())
    assert [line.name for line in lines] == ["APT", "VPT folded", "VPT as tokens"]
    assert all(line.values == [0, 100, 400] for line in lines)
    both = [*prompt_rows(), *prompt_rows(session="openvino-float32")]
    assert "APT, openvino-float32" in [line.name for line in find_series(both)]
    both = [*prompt_rows(), *prompt_rows(batch=8, mode="offline")]
    assert "APT, batch 8" in [line.name for line in find_series(both)]


@pytest.mark.parametrize(("size", "classes"), [("nano", 16), ("vit-small", 174), ("vit-base", 101), ("vit-large", 400)])
def test_the_backbone_is_recognised_by_its_costs(size: str, classes: int) -> None:
    config = size_by_name(size)
    rows = [
        {"contender": f"APT-{count}", "ms": 10 + count / 10, "method": "apt", "tokens": count}
        | {key: cost[key] for key in ("trainable_parameters",)}
        | {"gmacs": 0.98 * cost["gmacs_deployed"]}  # as a graph that pools early
        for count in (4, 8, 16)
        for cost in [cost_row("apt", config, {"tokens": count}, classes)]
    ]
    costs = prompt_costs(find_series(suite_rows(*rows)))
    assert costs is not None
    assert (costs.size, costs.classes) == (size, classes)
    rows[0]["trainable_parameters"] = rows[1]["trainable_parameters"] = rows[2]["trainable_parameters"] = 7
    assert prompt_costs(find_series(suite_rows(*rows))) is None


def test_figure_5_has_the_papers_numbers_and_the_measured_forms() -> None:
    costs = prompt_costs(find_series(prompt_rows()))
    assert costs is not None
    assert [(line.name, form) for line, form in costs.measured] == [
        ("APT", "APT"),
        ("VPT folded", "VPT folded"),
        ("VPT as tokens", "VPT as published"),
    ]
    last = cost_rows(costs)[-1]
    assert last["tokens"] == 400
    assert (last["trained APT"], last["trained VPT as published"]) == (691_758, 1_910_958)
    assert last["gmacs APT"] == pytest.approx(62.731, abs=1e-3)
    assert last["gmacs VPT as published"] == pytest.approx(78.497, abs=1e-3)
    assert last["ms VPT as tokens"] > last["ms APT"]


def rivals() -> list[Row]:
    """Three picks in float32, ours in float32 and bfloat16, and what has nothing to be compared with."""
    far = EQUAL | {"max_abs": 1e-2, "top1_agreement": 0.75}
    return suite_rows(
        {"contender": "a", "session": "pytorch-eager", "built": "Hugging Face", "ms": 40}
        | {"agreement": EQUAL | {"max_abs": 0.0}},
        {"contender": "compiled", "session": "pytorch-compile", "ms": 30, "agreement": EQUAL},
        {"contender": "b", "built": "torch.onnx.export", "ms": 25, "agreement": EQUAL},
        {"contender": "no plain export", "ms": 20, "agreement": EQUAL},
        {"contender": "half", "session": "openvino-bfloat16", "precision": "bfloat16", "ms": 10, "agreement": far},
        {"contender": "other weights", "ms": 5, "agreement": None},
        {"contender": "other prompts", "ms": 5, "agreement": EQUAL, "tokens": 7},
        {"contender": "nobody knows", "built": None, "ms": 5, "agreement": EQUAL},
        {"contender": "not finite", "ms": 5, "agreement": EQUAL | {"max_abs": None, "top1_agreement": None}},
    )


def test_only_equal_weights_are_compared_with_what_a_user_would_pick() -> None:
    pairs = against_picks(rivals())
    assert [(pair["ours"], pair["pick"]) for pair in pairs] == [
        (own, pick) for own in ("no plain export", "half") for pick in ("a", "compiled", "b")
    ]
    np.testing.assert_allclose([pair["speed"] for pair in pairs], [2, 1.5, 1.25, 4, 3, 2.5], rtol=0.03)
    assert [pair["precision"] for pair in pairs] == [None] * 3 + ["bfloat16 for float32"] * 3
    assert all(pair["speed_low"] <= pair["speed"] <= pair["speed_high"] for pair in pairs)
    assert {pair["verdict"] for pair in pairs} == {"faster"}
    assert pairs[1]["max_abs"] == pytest.approx(2e-6)
    assert pairs[4]["different_labels"] == pytest.approx(0.25)


def test_another_precision_is_no_win_at_equal_outputs() -> None:
    equal, other = (text for text in claims(rivals(), []) if "in 3 of 3 pairs" in text)
    assert "in the same precision, ours is faster in 3 of 3 pairs: 1.2" in equal
    assert "to 2.0" in equal
    assert "bfloat16" not in equal
    assert other.startswith("In another precision, which changes the outputs, ours is faster in 3 of 3 pairs: 2.5")
    assert "(half in openvino-bfloat16 instead of a in pytorch-eager, bfloat16 for float32)" in other


def test_a_slower_own_contender_is_called_slower() -> None:
    rows = suite_rows(
        {"contender": "a", "built": "torch.onnx.export", "ms": 20, "agreement": EQUAL},
        {"contender": "b", "ms": 25, "agreement": EQUAL},
    )
    (pair,) = against_picks(rows)
    assert pair["verdict"] == "slower"
    assert "faster in 0 of 1 pairs" in " ".join(claims(rows, []))


def test_claims_carry_intervals_and_the_farthest_from_the_arithmetic() -> None:
    rows = prompt_rows()
    rows[1] |= {"latency_ratio": 1.2, "latency_ratio_low": 1.19, "latency_ratio_high": 1.21}
    text = " ".join(claims(rows, find_series(rows)))
    assert "7 contenders, 20 interleaved rounds" in text
    assert "the GMAC ratio lies in the interval of " in text
    assert "the farthest is APT-100 with 1.200 [1.190, 1.210] where the GMACs say 1.025" in text
    assert text.count("[") >= 7


def test_no_claim_is_made_of_what_is_not_known() -> None:
    rows = suite_rows({"contender": "a", "ms": 10}, {"contender": "b", "ms": 10})
    for row in rows:
        row |= {"gmacs": None, "gmacs_ratio": None, "tokens": None}
    assert len(claims(rows, find_series(rows))) == 1
    for row in rows:
        row |= {"baseline": None, "latency_ratio": None, "verdict": "not paired"}
        row |= {"latency_ratio_low": None, "latency_ratio_high": None}
    assert "Ratios refer" not in claims(rows, [])[0]


def test_headings_say_what_ran_where() -> None:
    rows = suite_rows({"contender": "a", "ms": 1}, session="pytorch-cuda-graph", device="NVIDIA H200")
    assert heading(rows) == "PyTorch on NVIDIA H200"
    mixed = [*suite_rows({"contender": "a", "ms": 1}), *suite_rows({"contender": "b", "ms": 1}, session="tensorrt-rtx")]
    assert heading(mixed) == "ONNX Runtime, TensorRT-RTX on Some CPU"


def test_limits_follow_the_rows() -> None:
    quiet = " ".join(limits(suite_rows({"contender": "a", "ms": 1}, pack_sha256="cd")))
    assert "No accuracy is shown" in quiet
    assert "random weights" not in quiet
    rows = suite_rows({"contender": "a", "ms": 1, "accuracy": 0.5}, session="openvino-bfloat16")
    text = " ".join(limits(rows, has_summary=True))
    assert "where the memory of a session happens to lie" in text
    assert "within 0.5% no winner is named" in text
    engines = " ".join(limits(alone(prompt_rows(session="tensorrt"))))
    assert "measured by trtexec on the device, one after the other" in engines
    assert "A ratio without an interval" in engines
    for part in ("bfloat16 has 8", "random weights", "one training seed", "not a measured one"):
        assert part in text


def test_the_pareto_front_leaves_out_what_is_beaten() -> None:
    assert pareto_front([(3, 9), (1, 5), (2, 4), (3, 7), (4, 9)]) == [(1, 5), (3, 9)]


def test_no_two_rows_look_alike_and_points_of_a_series_do() -> None:
    rows = [{"contender": f"c{index}", "point": None} for index in range(20)]
    seen = {(COLOURS[index % len(COLOURS)], marker(index)) for _, index, _ in looks(rows)}
    assert len(seen) == 20
    points = [{"contender": f"s {v}", "point": {"series": "s"}} for v in range(3)]
    assert [(index, name) for _, index, name in looks(points)] == [(0, "s"), (0, None), (0, None)]
