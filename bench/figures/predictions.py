"""Predicted latencies: hollow and dashed, so that nobody takes them for measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bench.figures.style import Rows, canvas, colour, drawn, legend_below, list_height, marker, name_lines


@drawn
def predictions(rows: Rows) -> Figure:
    """One hollow marker a row of `bench.predict`, with a dashed line over what nine of ten back-tests lie within."""
    figure = canvas(list_height(len(rows)) + 0.5)
    axes = figure.subplots()
    devices: list[str] = []
    for place, row in enumerate(rows):
        name = str(row["device_name"])
        devices += [] if (known := name in devices) else [name]
        index = devices.index(name)
        axes.plot([row["latency_ms_low"], row["latency_ms_high"]], [place, place], "--", color=colour(index), lw=1.2)
        axes.plot(
            row["latency_ms"],
            place,
            marker(index),
            color=colour(index),
            mfc="white",
            ms=8,
            ls="none",
            label="_" if known else name,
        )
    name_lines(axes, [_model(row) for row in rows])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("predicted ms a run (dashed: nine of ten back-tests)")
    legend_below(figure, axes)
    return figure


def _model(row: Mapping[str, Any]) -> str:
    prompts = f", {row['tokens']} prompts" if row["tokens"] else ""
    batch = f", batch {row['batch']}" if row["batch"] > 1 else ""
    return f"{row['size']} {row['method']}{prompts}{batch}"
