"""Kinetics-400, -600 and -700 as published: CSV with `label,youtube_id,time_start,time_end,split`."""

from __future__ import annotations

import csv
from pathlib import Path

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import (
    Listing,
    Request,
    Row,
    Source,
    header_of,
    other_parts,
    part_of,
    read_source,
    take_part,
)

NAMES = ("kinetics",)


def read_file(source: Source, request: Request) -> Listing | None:
    """The classes are the sorted names of the train list, for every part; files are looked for in each known copy.

    A list whose column `split` says several parts is one of all of them; one of a single part is read as it is.
    """
    lines = source.lines
    header = header_of(lines[0])
    if not {"youtube_id", "time_start", "time_end"} <= set(header):
        if request.format is None:
            return None
        raise ConfigError(
            f"{source.path} is no list of Kinetics",
            found=f"the header {lines[0][:80]!r}",
            fix="the header is label,youtube_id,time_start,time_end,split",
        )
    rows, parts = [], []
    for number, cells in enumerate(csv.reader(lines[1:]), 2):
        if cells:
            record = dict(zip(header, cells, strict=False))
            rows.append(_row(source, number, record))
            parts.append(part_of(record.get("split", "")))
    if len(set(parts) - {None}) < 2:
        names, notes = _names(source, rows)
    else:
        of_train = {str(row.label) for row, part in zip(rows, parts, strict=True) if row.label and part == "train"}
        names, notes = _sorted(of_train or {str(row.label) for row in rows if row.label}) or None, []
        wanted = take_part(dict.fromkeys(filter(None, parts)), request.part, source.path, notes)
        rows = [row for row, part in zip(rows, parts, strict=True) if part == wanted]
    return Listing(rows, "kinetics", names, folder=source.path.parent, notes=notes)


def has_parts(source: Source) -> bool:
    """Whether a list of Kinetics holds several parts and says which one a video belongs to."""
    header = header_of(source.lines[0])
    if not {"youtube_id", "split"} <= set(header):
        return False
    rows = (dict(zip(header, next(csv.reader([line]), []), strict=False)) for line in source.lines[1:])
    return len({part_of(row.get("split", "")) for row in rows} - {None}) > 1


def _row(source: Source, number: int, cells: dict[str, str]) -> Row:
    try:
        start, end = (int(float(cells[key])) for key in ("time_start", "time_end"))
        identity = cells["youtube_id"].strip()
    except (KeyError, ValueError):
        raise ConfigError(
            f"{source.path}, line {number} lacks an id or times",
            found=",".join(cells.values())[:80],
            fix="lines are `abseiling,0347ZoDXyP0,95,105,train`",
        ) from None
    label = cells.get("label", "").replace('"', "").strip() or None
    files = (f"{identity}_{start:06d}_{end:06d}.mp4", f"{identity}.mp4")
    if label is None:
        return Row(files, None)
    folders = (f"{label}/", f"{label.replace(' ', '_')}/", "")
    return Row(tuple(folder + file for file in files for folder in folders), label)


def _names(source: Source, rows: list[Row]) -> tuple[list[str] | None, list[str]]:
    own = {str(row.label) for row in rows if row.label is not None}
    if part_of(source.name) == "train":
        return _sorted(own), []
    if train := other_parts(source.path).get("train"):
        return _sorted(_labels(train)), []
    if own:
        return None, [f"no train list beside {source.path.name}: classes are those of a class-name file or of its own"]
    return None, []


def _labels(path: Path) -> set[str]:
    rows = csv.DictReader(read_source(path).lines)
    return {text.replace('"', "").strip() for row in rows if (text := row.get("label"))}


def _sorted(names: set[str]) -> list[str]:
    """In the order of the published class numbers: sorted with _ for spaces."""
    return sorted(names, key=lambda name: name.replace(" ", "_"))
