"""One suite's rows -> the section of the report: claims, tables and figures, each only where rows have something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from apt_edge.tables import Column, Row
from bench.figures.accuracy import accuracy_against_latency, accuracy_curves
from bench.figures.distribution import every_run, percentiles
from bench.figures.prompts import prompt_figure
from bench.figures.ratios import ratio_against_gmacs
from bench.figures.resources import grouped_bars, stages
from bench.figures.scaling import AXES, MEMORY, scaling
from bench.page.claims import claims, heading
from bench.page.columns import FULL_COLUMNS, SHORT_COLUMNS, label, labelled
from bench.page.prompts import cost_columns, cost_rows, prompt_costs
from bench.page.rivals import PICK_COLUMNS, against_picks
from bench.page.series import SLOPE_COLUMNS, Series, find_series, slope_row
from bench.rows import SUMMARY_COLUMNS


@dataclass(frozen=True)
class Table:
    """Rows with their columns under a title; `note` says how to read them, `short` has the columns for Markdown."""

    title: str
    note: str
    rows: Sequence[Row]
    columns: Mapping[str, Column]
    short: Mapping[str, Column] | None = None


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text under a title; `note` says how to read it."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Section:
    """What the report says of one suite.

    Attributes:
        suite: its name.
        title: what ran it, and where.
        claims: its circumstances, then a sentence a claim.
        warnings: of its rows.
        tables, pictures: in their order; the first table has all rows.
        rows: all of them, labelled.
    """

    suite: str
    title: str
    claims: Sequence[str]
    warnings: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    rows: Sequence[Row]


def make_section(rows: Sequence[Row], summary: Sequence[Row] | None = None) -> Section:
    """The section of one suite; `summary` has the rows of `bench.demo` where training and export belong to it."""
    rows = labelled(rows)
    series = find_series(rows)
    return Section(
        suite=str(rows[0]["suite"]),
        title=heading(rows),
        claims=claims(rows, series),
        warnings=[f"{label(row)}: {text}" for row in rows for text in row.get("warnings", [])],
        tables=list(_tables(rows, series, summary or [])),
        pictures=list(_pictures(rows, series, summary or [])),
        rows=rows,
    )


def _tables(rows: Sequence[Row], series: Sequence[Series], summary: Sequence[Row]) -> Iterator[Table]:
    if summary:
        yield Table("From training to the engine", "", summary, SUMMARY_COLUMNS)
    yield Table("Latency", "", rows, FULL_COLUMNS, SHORT_COLUMNS)
    if pairs := against_picks(rows):
        note = (
            "Equal weights, measured in turns. The bounds of the logit difference and of the share of clips whose "
            "first label differs add up how far each of the two is from the first contender with these weights. A pair "
            "in two precisions does not compute the same."
        )
        yield Table("Against what a user would pick", note, pairs, PICK_COLUMNS)
    if series:
        note = (
            "The median over the rounds of each round's least-squares slope, with its 95 % interval; the last column "
            "says how far the medians lie from a straight line. By GMACs: the slope if time followed them, at the ms "
            "per GMAC of the baseline, or of the first point where the baseline ran in another session."
        )
        yield Table("Scaling", note, [slope_row(line) for line in series], SLOPE_COLUMNS)
    if costs := prompt_costs(series):
        note = (
            f"{costs.size}, {costs.classes} classes. Trained numbers and GMACs are closed forms, milliseconds measured."
        )
        yield Table("Prompts: trained numbers, GMACs and latency", note, cost_rows(costs), cost_columns(costs))


def _pictures(rows: Sequence[Row], series: Sequence[Series], summary: Sequence[Row]) -> Iterator[Picture]:
    yield Picture(
        "Every timed run", "Each dot is one run. Spikes belong to the result: nothing is clipped.", every_run(rows)
    )
    ratios = [row for row in rows if row["latency_ratio"] is not None and row["gmacs_ratio"] is not None]
    if len(ratios) > 1:
        note = (
            "Latency ratio with its 95 % interval against the GMAC ratio. On the dashed line, time follows arithmetic."
        )
        yield Picture("Measured against the arithmetic", note, ratio_against_gmacs(ratios))
    note = "How much longer a slow run takes than the usual one of the same contender."
    yield Picture("Percentiles", note, percentiles(rows))
    if costs := prompt_costs(series):
        note = (
            f"The paper's Figure 5 for {costs.size} with {costs.classes} classes, and what was measured. Folded VPT "
            "has the parameters of VPT and the GMACs of APT: those curves lie on each other."
        )
        yield Picture("Prompts: trained numbers, GMACs and latency", note, prompt_figure(costs))
    for axis, lines in groupby(sorted(series, key=lambda line: list(AXES).index(line.axis)), lambda line: line.axis):
        note = "Medians (hollow), the fitted line, and what the GMACs predict (dashed)."
        yield Picture(f"Scaling with {AXES[axis]}", note, scaling(list(lines)))
    yield from _resources(rows)
    if any(row["accuracy"] is not None for row in rows):
        note = "Nothing measured here is both faster and better than a point of the dashed line."
        yield Picture("Accuracy against latency", note, accuracy_against_latency(rows))
    if curves := {str(row["method"]): row["accuracy_curve"] for row in summary if row.get("accuracy_curve")}:
        yield Picture("Accuracy while training", "", accuracy_curves(curves))


def _resources(rows: Sequence[Row]) -> Iterator[Picture]:
    if staged := [row for row in rows if row["stages"]]:
        note = "Medians of stages that were timed apart; the tick is the median of the whole way, timed together."
        yield Picture("Stages of one run", note, stages(staged))
    known = {
        label(row): {name: row["memory"][key] for key, name in MEMORY.items() if row["memory"][key] is not None}
        for row in rows
        if row["memory"]
    }
    if any(known.values()):
        note = "Resident memory that the session added in a process of its own, what the engine states, the GPU's peak."
        yield Picture("Memory", note, grouped_bars(known, "MB"))
    if metered := [row for row in rows if row["energy"]]:
        energy = {label(row): {row["energy"]["source"]: row["energy"]["joules_per_clip"]} for row in metered}
        yield Picture("Energy", "By the device's own meter.", grouped_bars(energy, "joules a clip"))
