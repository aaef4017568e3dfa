"""Is a list of videos fit to train on? Every file is decoded to its end, in worker processes."""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from apt_edge.errors import ConfigError, reason_of
from apt_edge.files import as_text
from apt_edge.runtime.machine import usable_cores
from apt_edge.video.formats.rows import other_parts, part_of
from apt_edge.video.lists import Item, VideoList, read_list
from train.check.compare import Entry, contradictions, duplicates, entries, shared
from train.check.processes import Answer, run_jobs


def check_list(
    path: str | Path,
    part: str | None = None,
    *,
    format: str | None = None,
    split: int = 1,
    labels: str | Path | None = None,
    root: str | Path | None = None,
    decoder: str = "pyav",
    workers: int | None = None,
    timeout: float = 120.0,
    against: str | Path | None = None,
) -> dict[str, Any]:
    """Decode every video of a list, or of the training and validation part of a data set, with a progress bar.

    Args:
        path: a list file or the root folder of a data set.
        part: `train`, `val` or `test`; None takes what the list is by its name, else training and validation.
        format, split, labels, root: as `read_list` takes them.
        decoder: one of `decode.DECODERS`.
        workers: processes, None for one a core.
        timeout: seconds for one file; what takes longer is bad.
        against: another list, which must share no video with this one; None finds the other part by its name.

    Returns:
        A JSON-ready report: `path`, `decoder`; `clips` and `bad` (`part`, `path`, `reason`) of all parts together;
        `parts`, by name: see `_describe_part`; `shared`, videos that two parts have in common, by path or by content,
        whole or in segments that overlap: `parts`, `paths`, `same` (`path` or `content`) and, of trimmed videos, their
        `segments` in seconds; `notes` about the comparison. A video with two classes, within a part or between two, is
        bad wherever it is listed.

    Raises:
        ConfigError: the list does not parse, or a class number has no name.
        AptEdgeError: there is no such decoder, or it is not installed.
    """
    path = Path(path)
    options: dict[str, Any] = {"format": format, "split": split, "labels": labels, "root": root}
    lists = _checked_lists(path, part, options)
    others, notes = _other_lists(path, lists, against, options)
    answers = _answers(lists, others, decoder, workers or usable_cores(), timeout)
    contents = {name: found["sha256"] for name, found in answers.items() if "sha256" in found}
    lines, said = entries(lists | others, contents)
    rows = _rows(lists, answers, contradictions(lines))
    return {
        "path": as_text(path),
        "decoder": decoder,
        "clips": sum(len(part_rows) for part_rows in rows.values()),
        "bad": [
            {"part": name} | {key: row[key] for key in ("path", "reason")}
            for name, part_rows in rows.items()
            for row in part_rows
            if "reason" in row
        ],
        "parts": {name: _describe_part(videos, rows[name], lines[name]) for name, videos in lists.items()},
        "shared": list(shared(lines, lists)),
        "notes": notes + said,
    }


def _checked_lists(path: Path, part: str | None, options: dict[str, Any]) -> dict[str, VideoList]:
    """The parts to decode; a list that is the same for both parts has none."""
    part = part or (None if path.is_dir() else part_of(path.name))
    if part:
        return {part: read_list(path, part, **options)}
    lists = {name: read_list(path, name, **options) for name in ("train", "val")}
    return {"all": lists["train"]} if lists["train"].items == lists["val"].items else lists


def _other_lists(
    path: Path, lists: dict[str, VideoList], against: str | Path | None, options: dict[str, Any]
) -> tuple[dict[str, VideoList], list[str]]:
    """Lists that are compared with and not decoded, and notes on those that cannot be read."""
    if against:
        return {str(against): read_list(against, part_of(Path(against).name) or "val", **options)}, []
    if path.is_dir():
        sources = {name: path for name in ("train", "val") if len(lists) == 1 and name not in {*lists, "all"}}
        sources = {} if "all" in lists else sources
    else:
        sources = other_parts(path)
    others, notes = {}, []
    for name, source in sources.items():
        if name in lists:
            continue
        try:
            others[name] = read_list(source, name, **options)
        except ConfigError as error:
            notes.append(f"not compared with the {name} part: {reason_of(error, source)}")
    return others, notes


def _answers(
    lists: dict[str, VideoList], others: dict[str, VideoList], decoder: str, workers: int, timeout: float
) -> dict[str, Answer]:
    """What the workers found, by path; contents are hashed only of files that have another's number of bytes."""
    segments: dict[str, set[tuple[float | None, float | None]]] = defaultdict(set)
    for videos in lists.values():
        for item in videos.items:
            segments[as_text(item.path)].add((item.start, item.end))
    paths = {as_text(item.path): item.path for videos in (lists | others).values() for item in videos.items}
    sizes = {name: _bytes(path) for name, path in paths.items()}
    occurring = Counter(sizes.values())
    jobs: list[Answer] = [
        {
            "path": str(path),
            "decoder": decoder,
            "decode": name in segments,
            "hash": sizes[name] is not None and occurring[sizes[name]] > 1,
            "segments": sorted((pair for pair in segments[name] if pair != (None, None)), key=str),
        }
        for name, path in paths.items()
    ]
    found: dict[str, Answer] = {name: {} for name in paths}
    busy = [name for name, job in zip(paths, jobs, strict=True) if job["decode"] or job["hash"]]
    wanted = [job for job in jobs if job["decode"] or job["hash"]]
    results = run_jobs(wanted, workers, timeout)
    for place, answer in tqdm(results, total=len(busy), desc="decoding", unit="file", disable=None):
        name, counts = busy[place], answer.pop("segments", ())
        answer["counts"] = dict(zip(wanted[place]["segments"], counts, strict=False))  # a bad file has no counts
        found[name] = answer | {"missing": sizes[name] is None}
    return found


def _bytes(path: Path) -> int | None:
    """Size of a file, or of the files in a folder; None: it is not there; -1: it cannot be looked at."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return sum(entry.stat().st_size for entry in entries if entry.is_file())
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # decoding says what is wrong with it
        return -1


def _rows(
    lists: dict[str, VideoList], answers: dict[str, Answer], wrong: dict[tuple[str, int], str]
) -> dict[str, list[dict[str, Any]]]:
    """The lines of the report, by part; `wrong` is by part and place."""
    return {
        name: [_row(item, answers, videos.labels, wrong.get((name, place))) for place, item in enumerate(videos.items)]
        for name, videos in lists.items()
    }


def _row(item: Item, answers: dict[str, Answer], labels: Sequence[str], wrong: str | None) -> dict[str, Any]:
    """One line of the report: path, class, and either a reason or what the video holds.

    Args:
        wrong: the reason of a file that can be read.
    """
    found = answers[as_text(item.path)]
    row: dict[str, Any] = {
        "path": as_text(item.path),
        "label": None if item.label is None else as_text(labels[item.label]),
    }
    if (item.start, item.end) != (None, None):
        row |= {"start": item.start, "end": item.end}
    frames = found.get("counts", {}).get((item.start, item.end), found.get("frames"))
    reason = found.get("reason", frames if isinstance(frames, str) else wrong)
    if reason is not None:
        return row | {"reason": reason, "missing": found.get("missing", False)}
    row |= {"frames": frames} | {name: found[name] for name in ("width", "height", "fps")}
    return row | ({"promised": item.frames} if item.frames is not None else {})


def _describe_part(videos: VideoList, rows: list[dict[str, Any]], lines: list[Entry]) -> dict[str, Any]:
    """What the report says of a part.

    Keys: `format`, `notes`, `clips`; `labels` (clips of each class), `unlabelled`; `frames` (least, median, most),
    `fps` and `sizes` (how many videos have which); `missing` (files that are not there), `missing_share`; `miscounted`
    (folders that hold another number of frames than the list says); `duplicates` (groups of paths, of good videos with
    one content); `rows`, one a video.
    """
    good = [row for row in rows if "reason" not in row]
    counts = Counter(row["label"] for row in rows)
    missing = sum(row.get("missing", False) for row in rows)
    return {
        "format": videos.format,
        "notes": [as_text(note) for note in videos.notes],
        "clips": len(rows),
        "labels": {name: counts[name] for name in map(as_text, videos.labels)},
        "unlabelled": counts[None],
        "frames": _spread([row["frames"] for row in good]),
        "fps": _tally(f"{row['fps']:g}" for row in good),
        "sizes": _tally(f"{row['width']}x{row['height']}" for row in good),
        "missing": missing,
        "missing_share": missing / len(rows),
        "miscounted": [row for row in good if row.get("promised", row["frames"]) != row["frames"]],
        "duplicates": duplicates([line for line, row in zip(lines, rows, strict=True) if "reason" not in row]),
        "rows": rows,
    }


def _spread(values: list[int]) -> dict[str, float]:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)} if values else {}


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common(10))
