"""What `train.clips check` found, in plain words, as files and as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from apt_edge.files import atomic, write_json
from train.plots import fitting, save_figure

SHOWN = 20  # lines of a kind on a terminal; the files hold all


def describe(report: dict[str, Any]) -> str:
    """The report of `check_list` in plain text."""
    lines = [f"{report['path']}: {report['clips']} videos, {len(report['bad'])} bad"]
    for name, part in report["parts"].items():
        lines += ["", *_describe_part(name, part)]
    lines += [""] if report["shared"] or report["notes"] else []
    lines += _first(
        f"WARNING: in {shared['parts'][0]} and {shared['parts'][1]}, the same {shared['same']}: " + _of_both(shared)
        for shared in report["shared"]
    )
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [""] if report["bad"] else []
    lines += _first(f"bad: {bad['path']}\n     {bad['reason']}" for bad in report["bad"])
    return "\n".join(lines)


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write `out`/check.json, `out`/bad.txt (path, tab, reason; one a line) and `out`/check.png."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "check.json", report)
    with atomic(out / "bad.txt") as temporary:
        temporary.write_bytes("".join(f"{bad['path']}\t{bad['reason']}\n" for bad in report["bad"]).encode())
    save_check(report, out / "check.png")


def save_check(report: dict[str, Any], path: Path) -> None:
    """Lengths of the good videos in frames, and clips of each class, as PNG; the parts beside each other."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    lengths, classes = figure.subplots(1, 2)
    parts = report["parts"]
    frames = {name: [row["frames"] for row in part["rows"] if "reason" not in row] for name, part in parts.items()}
    longest = max((max(counts) for counts in frames.values() if counts), default=1)
    edges = np.linspace(0, longest + 1, min(longest + 1, 50) + 1)
    lengths.hist(list(frames.values()), bins=edges, label=list(frames))
    lengths.set(xlabel="length of a video, frames", ylabel="videos")
    names = list(dict.fromkeys(name for part in parts.values() for name in part["labels"]))
    width = 0.8 / len(parts)
    for place, (name, part) in enumerate(parts.items()):
        counts = [part["labels"].get(label, 0) for label in names]
        classes.bar(np.arange(len(names)) + (place - (len(parts) - 1) / 2) * width, counts, width, label=name)
    classes.set(xlabel="class", ylabel="videos")
    if len(names) <= 30:  # more names cannot be read
        classes.set_xticks(range(len(names)), [fitting(name, 20) for name in names], rotation=90)
    for axes in (lengths, classes):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{fitting(report['path'], 80)}: {report['clips']} videos, {len(report['bad'])} bad")
    save_figure(figure, path)


def _describe_part(name: str, part: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {part['clips']} videos, a list of the format {part['format']}"]
    lines += [f"  note: {note}" for note in part["notes"]]
    lines += _first(f"  {count:6d}  {label}" for label, count in part["labels"].items())
    if part["unlabelled"]:
        lines.append(f"  {part['unlabelled']:6d}  without a class")
    if part["frames"]:
        lines.append("  frames: {least} to {most}, median {median:g}".format(**part["frames"]))
        lines += [
            f"  {kind}: " + ", ".join(f"{value} ({count})" for value, count in part[kind].items())
            for kind in ("fps", "sizes")
        ]
    if part["missing"]:
        lines.append(f"  missing: {part['missing']} files are not there, {100 * part['missing_share']:.1f} %")
    lines += _first(
        f"  WARNING: {row['path']} holds {row['frames']} frames, the list says {row['promised']}"
        for row in part["miscounted"]
    )
    lines += _first(
        f"  WARNING: listed {len(paths)} times: {paths[0]}"
        if len(set(paths)) == 1
        else f"  WARNING: the same content: {', '.join(paths)}"
        for paths in part["duplicates"]
    )
    return lines


def _of_both(shared: dict[str, Any]) -> str:
    """Both paths, or the one that both are; of trimmed videos the seconds, too."""
    if "segments" not in shared:
        return " and ".join(dict.fromkeys(shared["paths"]))
    spans = [f"{start or 0:g} s to {'the end' if end is None else f'{end:g} s'}" for start, end in shared["segments"]]
    if shared["same"] == "path":
        return f"{shared['paths'][0]}, {' and '.join(dict.fromkeys(spans))}"
    return " and ".join(f"{path}, {span}" for path, span in zip(shared["paths"], spans, strict=True))


def _first(lines: Iterable[str]) -> list[str]:
    """The first lines, and how many more there are."""
    everything = list(lines)
    more = len(everything) - SHOWN
    return everything[:SHOWN] + ([f"  ... and {more} more, see --out or --json"] if more > 0 else [])
