"""Is a list of videos fit to train on? Every file is decoded to its end."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from apt_edge.errors import VideoError
from apt_edge.video.decode import VideoInfo, verify
from apt_edge.video.lists import Item, read_list


def check_list(path: str | Path) -> dict[str, Any]:
    """Decode every video of a list to its end, in parallel, with a progress bar.

    Args:
        path: a list file or the root folder of a data set.

    Returns:
        A JSON-ready report: `list`, `clips`; `labels` (clips for each class), `frames` (least, median, most), `fps` and
        `sizes` (how many videos have which), and `bad` (`path` and `reason` of each file that does not decode).

    Raises:
        ConfigError: the list does not parse, or a class number has no name.
    """
    path = Path(path)
    videos = read_list(path)
    items = videos.items
    # Threads do: FFmpeg decodes without the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(tqdm(pool.map(_verify, items), total=len(items), desc="decoding", unit="clip", disable=None))
    infos = [result for result in results if isinstance(result, VideoInfo)]
    counts = Counter(item.label for item in items)
    return {
        "list": str(path),
        "clips": len(items),
        "labels": {name: counts[label] for label, name in enumerate(videos.labels)},
        "frames": _spread([info.frames for info in infos]),
        "fps": _tally(f"{info.fps:g}" for info in infos),
        "sizes": _tally(f"{info.width}x{info.height}" for info in infos),
        "bad": [
            {"path": str(item.path), "reason": result}
            for item, result in zip(items, results, strict=True)
            if isinstance(result, str)
        ],
    }


def describe(report: dict[str, Any]) -> str:
    """The report of `check_list` in plain text."""
    lines = [f"{report['list']}: {report['clips']} videos, {len(report['bad'])} bad"]
    lines += [f"  {count:6d}  {name}" for name, count in report["labels"].items()]
    if report["frames"]:
        lines.append("frames: {least} to {most}, median {median:g}".format(**report["frames"]))
        lines += [
            f"{kind}: " + ", ".join(f"{value} ({count})" for value, count in report[kind].items())
            for kind in ("fps", "sizes")
        ]
    lines += [f"bad: {bad['path']}\n     {bad['reason']}" for bad in report["bad"]]
    return "\n".join(lines)


def _verify(item: Item) -> VideoInfo | str:
    try:
        return verify(item.path)
    except VideoError as error:
        return error.wrong + (f": {error.found}" if error.found else "")


def _spread(values: list[int]) -> dict[str, float]:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)} if values else {}


def _tally(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common(10))
