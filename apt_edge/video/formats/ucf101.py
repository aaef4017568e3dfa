"""UCF101 as published: trainlist0N.txt with `Class/v_Class_g08_c01.avi 1`, testlist0N.txt without classes."""

from __future__ import annotations

import re
from pathlib import Path

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import Listing, Request, Row, Source, folder_names, read_source
from apt_edge.video.labels import read_labels

NAMES = ("ucf101",)

_NAME = re.compile(r"(train|test)list(\d\d)\.txt")
_CLIP = re.compile(r"v_(.+)_g\d+_c\d+")


def read_file(source: Source, request: Request) -> Listing | None:
    """The class is the folder's name, or the one inside the file's: the numbers of the list count from 1."""
    if not _NAME.fullmatch(source.name) and request.format is None:
        return None
    rows = [_row(source, number, line) for number, line in source.entries]
    folder = source.path.parent
    names = next((read_labels(folder / name) for name in folder_names(folder) if name.lower() == "classind.txt"), None)
    return Listing(rows, "ucf101", names, fallback=None if names else _classes(folder), folder=folder)


def read_root(folders: list[Path], request: Request) -> Listing | None:
    """The lists of a split anywhere in these folders; val and test are both the published test part.

    Raises:
        ConfigError: there are lists, and not this one.
    """
    stem = "trainlist" if request.part == "train" else "testlist"
    for folder in folders:
        path = folder / f"{stem}{request.split:02d}.txt"
        if path.is_file():
            listing = read_file(read_source(path), request)
            if listing and request.part == "val":
                listing.notes.append(f"UCF101 has no val part: the test part of split {request.split} is taken")
            return listing
        if splits := sorted({int(match[2]) for match in map(_NAME.fullmatch, folder_names(folder)) if match}):
            raise ConfigError(
                f"{folder} has no {path.name}",
                found=f"lists of splits {', '.join(map(str, splits))}",
                fix="choose one of the three official splits with --split, or take the published lists",
            )
    return None


def _row(source: Source, number: int, line: str) -> Row:
    path = re.sub(r"\s+\d+$", "", line)
    folder, _, file = path.rpartition("/")
    clip = _CLIP.match(file)
    label = folder.rpartition("/")[2] or (clip[1] if clip else "")
    if not label:
        raise ConfigError(
            f"{source.path}, line {number} is not of the form `Class/v_Class_g01_c01.avi`",
            found=repr(line[:80]),
            fix="take the published list, or give --format videomae for lines of `video label`",
        )
    return Row((path, file), label)


def _classes(folder: Path) -> list[str]:
    """Classes of all lists of a folder: without classInd.txt the train and the test part still agree."""
    sources = [read_source(folder / name) for name in folder_names(folder) if _NAME.fullmatch(name.lower())]
    return sorted({str(_row(source, *entry).label) for source in sources for entry in source.entries})
