"""The curve of a pre-training run: loss and explained share of every target over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from apt_edge.files import atomic
from train.synthetic.motion import CHANNELS


def plot(folder: Path) -> None:
    """Draw runs/<name>/curve.png from its log."""
    lines: list[dict[str, Any]] = [
        json.loads(t) for t in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    steps, probes = [x for x in lines if "loss" in x], [x for x in lines if "probe" in x]
    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    left.plot([x["minutes"] for x in steps], [x["loss"] for x in steps])
    left.set(xlabel="minutes", ylabel="loss", title=folder.name)
    for name in CHANNELS:
        right.plot([x["minutes"] for x in steps], [x[name] for x in steps], label=name, linewidth=0.8)
    if probes:
        right.plot([x["minutes"] for x in probes], [x["probe"] for x in probes], "ko-", label="linear probe, top-1")
    right.set(xlabel="minutes", ylabel="explained share of each target", ylim=(-0.05, 1))
    right.legend(fontsize=7)
    figure.tight_layout()
    with atomic(folder / "curve.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)
