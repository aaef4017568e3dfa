"""Tables that say what their columns are: CSV or TSV with a header, JSON lines, JSON lists of objects."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from typing import Any

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import (
    PATH_COLUMNS,
    SNIFFED,
    Listing,
    Request,
    Row,
    Source,
    header_of,
    many_classes,
    part_of,
    take_part,
)

NAMES = ("table",)

_COLUMNS = {  # ours: theirs, likeliest first
    "path": PATH_COLUMNS,
    "label": ("label", "class", "label_name", "class_name", "category", "action", "target", "label_id", "labels"),
    "start": ("start", "start_time", "time_start", "start_sec"),
    "end": ("end", "end_time", "time_end", "end_sec"),
    "split": ("split", "part", "subset", "set", "partition"),
    "frames": ("total_frames", "num_frames", "frames", "n_frames"),
}
_NUMBER = re.compile(r"\d+(\.0+)?")  # tables that were short of a cell hold 1.0 for 1
Record = Mapping[str, Any]


def read_file(source: Source, request: Request) -> Listing | None:
    """Numbers or names for classes; start and end in seconds cut a longer video; a column `split` chooses the part."""
    records = _records(source)
    if records is None or (records and "path" not in records[0][1]):
        if request.format is None:
            return None
        raise ConfigError(
            f"{source.path} is no table of videos",
            found=repr(next(iter(source.lines), "")[:80]),
            fix=f"the header needs a column for the path: {', '.join(PATH_COLUMNS[:6])}",
        )
    rows = [_row(source, number, record) for number, record in records]
    labels = [str(row.label) for row in rows if row.label is not None]
    numbers = {text: int(float(text)) for text in labels if _NUMBER.fullmatch(text)}
    if labels and all(text in numbers for text in labels):  # one name makes all of them names
        rows = [row if row.label is None else row._replace(label=numbers[str(row.label)]) for row in rows]
    if 0 < len(labels) < len(rows) and not any("split" in record for _, record in records):
        number = next(number for (number, _), row in zip(records, rows, strict=True) if row.label is None)
        raise ConfigError(
            f"{source.path}, line {number} has no class, and other lines have one",
            fix="give every video a class, or none",
        )
    fallback = sorted({row.label for row in rows if isinstance(row.label, str)}) or None
    numbered = {row.label for row in rows if isinstance(row.label, int)}
    listing = Listing(rows, "table", fallback=fallback, folder=source.path.parent, numbers=numbered)
    return _one_part(source, request, listing, [part_of(str(record.get("split", ""))) for _, record in records])


def has_parts(source: Source) -> bool:
    """Whether a table has a column that says which part a video belongs to."""
    return any(part_of(str(record.get("split", ""))) for _, record in (_records(source) or [])[:SNIFFED])


def _one_part(source: Source, request: Request, listing: Listing, parts: list[str | None]) -> Listing:
    if any(parts):
        part = take_part(dict.fromkeys(filter(None, parts)), request.part, source.path, listing.notes)
        listing.rows = [row for row, its in zip(listing.rows, parts, strict=True) if its == part]
    return listing


def _records(source: Source) -> list[tuple[int, Record]] | None:
    """Line (or entry) numbers and our columns of every record; None where this is no table."""
    records: list[tuple[int, Record]] | None
    if source.name.endswith(".jsonl"):
        records = [(number, _object(source, number, line)) for number, line in source.entries]
    elif source.name.endswith(".json"):
        records = list(enumerate(_objects(source), 1))
    else:
        records = _separated(source)
    if records is None:
        return None
    columns = {theirs: ours for ours, names in _COLUMNS.items() for theirs in reversed(names)}
    out: list[tuple[int, Record]] = []
    for number, record in records:
        known = {str(name).strip().lower().replace(" ", "_"): value for name, value in record.items()}
        ours = {columns[name]: known[name] for names in _COLUMNS.values() for name in reversed(names) if name in known}
        out.append((number, ours))
    return out


def _separated(source: Source) -> list[tuple[int, Record]] | None:
    lines = source.lines
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return None
    delimiter = next((mark for mark in "\t,; " if mark in lines[first]), ",")
    header = header_of(lines[first], delimiter)
    known = {name for names in _COLUMNS.values() for name in names}
    if not set(header) & set(PATH_COLUMNS) or (delimiter == " " and not set(header) <= known):
        return None
    records: list[tuple[int, Record]] = []
    for number, line in enumerate(lines[first + 1 :], first + 2):
        if not line.strip():
            continue
        cells = next(csv.reader([line], delimiter=delimiter))
        if delimiter == " ":  # the path, first, may hold spaces
            cells = line.rsplit(None, len(header) - 1)
        if len(cells) != len(header):
            raise ConfigError(
                f"{source.path}, line {number} has {len(cells)} cells, the header has {len(header)}",
                found=repr(line[:80]),
                fix="put a path that holds the separator in quotes",
            )
        records.append((number, dict(zip(header, cells, strict=True))))
    return records


def _object(source: Source, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{source.path}, line {number} is not JSON", found=str(error), fix="correct it") from None
    if not isinstance(record, Mapping):
        raise ConfigError(
            f"{source.path}, line {number} is no object", found=repr(line[:80]), fix='write {"path": ..., "label": ...}'
        )
    return record


def _objects(source: Source) -> list[Record]:
    try:
        content = json.loads(source.text)
    except ValueError as error:
        raise ConfigError(f"{source.path} is not JSON", found=str(error), fix="correct it") from None
    if isinstance(content, Mapping):  # {"annotations": [...]} and the like
        content = next((value for value in content.values() if isinstance(value, list)), [])
    return content if all(isinstance(entry, Mapping) for entry in content) else []


def _row(source: Source, number: int, record: Record) -> Row:
    path = str(record.get("path", "") or "").strip()
    if not path:
        raise ConfigError(f"{source.path}, line {number} has no path", fix="fill the cell in, or remove the line")
    label = record.get("label")
    if isinstance(label, list):
        if len(label) > 1:
            raise many_classes(source.path, number, str(label))
        label = label[0] if label else None
    text = "" if label is None else str(label).strip()
    start, end = _seconds(source, number, record, "start"), _seconds(source, number, record, "end")
    if start is not None and end is not None and end <= start:
        raise ConfigError(
            f"{source.path}, line {number} ends before it starts",
            found=f"start {start:g} s, end {end:g} s",
            fix="start and end are seconds from the beginning of the video",
        )
    frames = str(record.get("frames", "")).strip()
    label = None if text in ("", "-1", "-1.0") else text
    return Row((path,), label, start, end, int(frames) if frames.isdecimal() else None)


def _seconds(source: Source, number: int, record: Record, name: str) -> float | None:
    text = str(value).strip() if (value := record.get(name)) is not None else ""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(
            f"{source.path}, line {number}: {name} is no time",
            found=repr(text),
            fix="give seconds from the beginning of the video, 12.5 for example",
        )
    return seconds
