"""What a run takes beside its time, and where its time goes: bars of memory, energy and stages."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from bench.figures.style import Rows, canvas, colour, drawn, legend_below, list_height, name_lines
from bench.page.columns import label

STAGES = {"decode_ms": "decode", "preprocess_ms": "preprocess", "transfer_ms": "transfer", "inference_ms": "inference"}


@drawn
def grouped_bars(values: Mapping[str, Mapping[str, float]], what: str) -> Figure:
    """One group of bars a key, one colour a key of the inner mappings; `what` is measured, with its unit."""
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    figure = canvas(1.5 + len(values) * (0.25 + 0.17 * len(names)))
    axes = figure.subplots()
    thickness = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        places = [place + (index - (len(names) - 1) / 2) * thickness for place in range(len(values))]
        lengths = [group.get(name, 0.0) for group in values.values()]
        axes.barh(places, lengths, thickness, color=colour(index), label=name)
    name_lines(axes, list(values))
    axes.set_xlabel(what)
    legend_below(figure, axes, columns=4)
    return figure


@drawn
def stages(rows: Rows) -> Figure:
    """The medians of the stages of one clip, end to end, one bar a row; the tick is the median of all together."""
    figure = canvas(0.5 + list_height(len(rows)))
    axes = figure.subplots()
    ends = [0.0] * len(rows)
    for index, (key, name) in enumerate(STAGES.items()):
        lengths = [row["stages"][key] or 0.0 for row in rows]
        if any(lengths):
            axes.barh(range(len(rows)), lengths, 0.6, left=ends, color=colour(index), label=name)
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    totals = {place: row["stages"]["end_to_end_ms"] for place, row in enumerate(rows)}
    known = {place: total for place, total in totals.items() if total is not None}
    lows, highs = [place - 0.4 for place in known], [place + 0.4 for place in known]
    axes.vlines(list(known.values()), lows, highs, "black", lw=2, label="measured together")
    name_lines(axes, [label(row) for row in rows])
    axes.set_xlabel("median milliseconds a run")
    legend_below(figure, axes, columns=5)
    return figure
