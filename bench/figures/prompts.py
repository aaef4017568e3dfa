"""The paper's Figure 5: trained parameters and GFLOPs over prompt length, here beside measured latency."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from bench.figures.scaling import AXES
from bench.figures.style import COLOURS, canvas, colour, drawn, legend_below, marker
from bench.page.prompts import PromptCosts

LOOKS: dict[str, dict[str, Any]] = {  # two of the three curves lie on each other in each panel
    "APT": {"color": COLOURS[0], "lw": 3.5, "alpha": 0.6},
    "VPT as published": {"color": COLOURS[1], "lw": 3.5, "alpha": 0.6},
    "VPT folded": {"color": COLOURS[6], "lw": 2.0, "ls": (0, (1, 1.5))},
}
TITLES = ("trained parameters, millions", "GMACs a clip", "measured: median ms a run")


@drawn
def prompt_figure(costs: PromptCosts) -> Figure:
    """Three panels over prompts a block: trained parameters and GMACs in closed form, measured latency."""
    figure = canvas(4.2)
    trained, gmacs, latency = figure.subplots(1, 3)
    for form, curve in costs.curves.items():
        counts = [row["tokens"] for row in curve]
        trained.plot(counts, [row["trainable_parameters"] / 1e6 for row in curve], label=form, **LOOKS[form])
        gmacs.plot(counts, [row["gmacs"] for row in curve], **LOOKS[form])
    for index, (line, kind) in enumerate(costs.measured):
        own = LOOKS[kind]["color"] if kind else colour(index + 2)
        medians = [row["latency_ms_median"] for row in line.rows]
        latency.plot(line.values, medians, marker(index), color=own, mfc="none", ms=7, label=f"{line.name}, measured")
        ends = [line.values[0], line.values[-1]]
        latency.plot(ends, [line.intercept + line.slope * end for end in ends], color=own, lw=1.2)
    for axes, title in zip((trained, gmacs, latency), TITLES, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(AXES["tokens"])
        axes.margins(x=0.08)
    legend_below(figure, trained, latency)
    return figure
