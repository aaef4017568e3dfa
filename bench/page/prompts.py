"""The paper's Figure 5: what prompts cost in trained numbers and GMACs, in closed form, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apt_edge.backbone.vit import SIZES
from apt_edge.tables import Column, Row, number
from bench.flops import cost_row, make_method
from bench.page.series import Series, at_least_batch

FORMS = ("APT", "VPT as published", "VPT folded")
POINTS = 9  # of a closed form's curve: a parabola at most
TOLERANCE = 0.05  # the graph's GMACs are up to 4 % below the closed form's: its pooling comes before the last product


@dataclass(frozen=True)
class PromptCosts:
    """Figure 5 of one suite.

    Attributes:
        size, classes: of the backbone and of the head.
        curves: closed forms over prompts a block, by the names of `FORMS`; rows with `tokens`,
            `trainable_parameters` and `gmacs`.
        measured: the latencies of the suite over prompts a block, each with the form that it is of, None where another
            series is of the same form already.
    """

    size: str
    classes: int
    curves: dict[str, list[Row]]
    measured: list[tuple[Series, str | None]]


def prompt_costs(series: Sequence[Series]) -> PromptCosts | None:
    """Figure 5 of a suite's series; None when none is over prompts, or the backbone is not one of ours."""
    measured = at_least_batch([line for line in series if line.axis == "tokens"])
    known = [found for line in measured for found in map(_model, line.rows) if found]
    if not known:
        return None
    size, classes = known[0]
    most = max(line.values[-1] for line in measured)
    counts = sorted({*np.linspace(1, most, POINTS).round().astype(int).tolist(), *_counts(measured)})
    curves = closed_forms(size, classes, counts)
    forms = [_form(line, curves) for line in measured]
    own = [form if form not in forms[:index] else None for index, form in enumerate(forms)]
    return PromptCosts(size, classes, curves, list(zip(measured, own, strict=True)))


def _form(line: Series, curves: dict[str, list[Row]]) -> str | None:
    """Which form a series is of: VPT by its GMACs, what it adds to the model without prompts where that is there."""
    last, first = line.rows[-1], line.rows[0]
    if last["method"] == "apt":
        return "APT"
    if last["method"] != "vpt-deep" or not last["gmacs"]:
        return None
    distances = {}
    for form in FORMS[1:]:
        gmacs = {row["tokens"]: row["gmacs"] for row in curves[form]}
        offset = first["gmacs"] - gmacs[0] if line.values[0] == 0 and first["gmacs"] else 0.0
        distances[form] = abs(last["gmacs"] - offset - gmacs[line.values[-1]])
    return min(distances, key=lambda form: distances[form])


def closed_forms(size: str, classes: int, counts: Sequence[int]) -> dict[str, list[Row]]:
    """Trained numbers and GMACs of the three forms at each count of prompts a block, and without any."""
    none = cost_row("linear", SIZES[size], {}, classes)
    first = {"tokens": 0, "trainable_parameters": none["trainable_parameters"], "gmacs": none["gmacs_deployed"]}
    curves: dict[str, list[Row]] = {form: [first] for form in FORMS}
    for count in counts:
        for form in FORMS:
            method = "apt" if form == "APT" else "vpt-deep"
            cost = cost_row(method, SIZES[size], {"tokens": count}, classes)
            gmacs = cost["gmacs_published" if form == "VPT as published" else "gmacs_deployed"]
            trained = cost["trainable_parameters"]
            curves[form].append({"tokens": count, "trainable_parameters": trained, "gmacs": gmacs})
    return curves


def _counts(measured: Sequence[Series]) -> set[int]:
    return {int(value) for line in measured for value in line.values if value > 0}


def _model(row: Row) -> tuple[str, int] | None:
    """Size and classes of a row's model, by its trained numbers and GMACs; None when no backbone of ours fits."""
    if row["method"] not in ("linear", "apt", "vpt-deep") or not row["trainable_parameters"] or not row["gmacs"]:
        return None
    if row["method"] != "linear" and not row["tokens"]:
        return None
    settings = {"tokens": row["tokens"]} if row["method"] != "linear" else {}
    for size, config in SIZES.items():
        own = make_method(row["method"], config, settings).parameter_count()
        classes, rest = divmod(row["trainable_parameters"] - own - 2 * config.width, config.width + 1)
        if rest == 0 and classes >= 1:
            expected = cost_row(row["method"], config, settings, classes)["gmacs_deployed"]
            if abs(row["gmacs"] / expected - 1) < TOLERANCE:
                return size, classes
    return None


def cost_rows(costs: PromptCosts) -> list[Row]:
    """What a table says of Figure 5: one row for each count of prompts that was measured."""
    counts = _counts([line for line, _ in costs.measured])
    table = []
    for places in zip(*(costs.curves[form] for form in FORMS), strict=True):
        if (count := places[0]["tokens"]) in counts:
            forms = dict(zip(FORMS, places, strict=True))
            row: Row = {"tokens": count}
            row |= {f"trained {form}": forms[form]["trainable_parameters"] for form in FORMS[:2]}
            row |= {f"gmacs {form}": forms[form]["gmacs"] for form in FORMS[:2]}
            for line, _ in costs.measured:
                row[f"ms {line.name}"] = _median(line, count)
            table.append(row)
    return table


def _median(line: Series, count: int) -> float | None:
    places = dict(zip(line.values, line.rows, strict=True))
    return places[count]["latency_ms_median"] if count in places else None


def cost_columns(costs: PromptCosts) -> dict[str, Column]:
    """The columns of `cost_rows`."""
    return {
        "prompts a block": number("tokens", ","),
        "trained, APT": number("trained APT", ","),
        "trained, VPT": number("trained VPT as published", ","),
        "GMACs, APT and VPT folded": number("gmacs APT", ".4g"),
        "GMACs, VPT as published": number("gmacs VPT as published", ".4g"),
        **{f"ms, {line.name}": number(f"ms {line.name}", ".4g") for line, _ in costs.measured},
    }
