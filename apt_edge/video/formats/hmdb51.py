"""HMDB51 as published: 51 files `brush_hair_test_split1.txt`, lines `video.avi 1` (1 train, 2 test, 0 unused)."""

from __future__ import annotations

import re
from pathlib import Path

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import Listing, Request, Row, Source, folder_names, read_source

NAMES = ("hmdb51",)

_NAME = re.compile(r"(?P<label>.+)_test_split(?P<split>[123])\.txt", re.IGNORECASE)


def read_file(source: Source, request: Request) -> Listing | None:
    """One class's file stands for all of its split: a single class cannot be told from nothing."""
    match = _NAME.fullmatch(source.path.name)
    if not match:
        return None
    listing = _read(source.path.parent, request._replace(split=int(match["split"])))
    listing.notes.append(f"{source.path.name} is one class: all files of its split are read")
    return listing


def read_root(folders: list[Path], request: Request) -> Listing | None:
    """The files of a split anywhere in these folders; val and test are both the published test part."""
    for folder in folders:
        if any(_NAME.fullmatch(name) for name in folder_names(folder)):
            return _read(folder, request)
    return None


def _read(folder: Path, request: Request) -> Listing:
    matches = [match for match in map(_NAME.fullmatch, folder_names(folder)) if match]
    files = {match["label"]: match[0] for match in matches if int(match["split"]) == request.split}
    if not files:
        raise ConfigError(
            f"{folder} has no file of split {request.split}",
            found=f"splits {', '.join(sorted({match['split'] for match in matches}))}",
            fix="choose one of them with --split",
        )
    wanted, rows = (1 if request.part == "train" else 2), []
    for label, name in sorted(files.items()):
        for number, line in read_source(folder / name).entries:
            video, _, mark = line.rpartition(" ")
            if not video or mark not in ("0", "1", "2"):
                raise ConfigError(
                    f"{folder / name}, line {number} is not of the form `video.avi 1`",
                    found=repr(line[:80]),
                    fix="take the published file: 1 is train, 2 is test, 0 is unused",
                )
            if int(mark) == wanted:
                rows.append(Row((f"{label}/{video.strip()}", video.strip()), label))
    notes = [f"HMDB51 has no val part: the test part of split {request.split} is taken"]
    return Listing(rows, "hmdb51", sorted(files), folder=folder, notes=notes if request.part == "val" else [])
