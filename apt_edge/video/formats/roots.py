"""The root folder of a data set: its published lists, lists by their names, a table, or class folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from apt_edge.errors import ConfigError
from apt_edge.video.formats import folders, hmdb51, kinetics, table, ucf101
from apt_edge.video.formats.rows import (
    LISTS,
    Listing,
    Request,
    folder_names,
    may_be_list,
    part_of,
    read_source,
    split_name,
    sub_folders,
    take_part,
)

_TABLES = (".csv", ".tsv", ".jsonl", ".json")
_ABOUT_LISTS = re.compile(r"split|list|annot|label|csv|meta|json|anno")


def read_root(root: Path, request: Request, read_file: Callable[[Path, Request], Listing]) -> Listing:
    """The list of a part; `read_file` reads a list file of any format.

    Raises:
        ConfigError: the folder is none of these, lacks the part, or has several lists of it.
    """
    places = [root, *(path for path in _two_levels(root) if _ABOUT_LISTS.search(path.name.lower()))]
    listing: Listing | None
    for module in (hmdb51, ucf101):
        if request.format in (None, *module.NAMES):
            listing = module.read_root(places, request)
            if listing:
                return listing
    if request.format not in folders.NAMES:
        for place in places:
            if lists := _lists(place, request):
                notes: list[str] = []
                path = _one(place, lists[take_part(lists, request.part, place, notes)])
                listing = read_file(path, request)
                listing.notes[:0] = [f"the list is {path}", *notes]
                return listing
        if found := _table(root):
            return read_file(found, request)
    if request.format in (None, *folders.NAMES) and (listing := folders.read_root(root, request)):
        return listing
    raise ConfigError(
        f"{root} is no data set in a known layout" + (f" of format {request.format}" if request.format else ""),
        found=", ".join(folder_names(root)[:8]) or "an empty folder",
        fix="it holds train.csv and val.csv, the published lists of UCF101, HMDB51, Something-Something or Kinetics, "
        "or train/<class>/ and val/<class>/ folders; or give the list file itself",
    )


def _two_levels(root: Path) -> list[Path]:
    above = [path for path in sub_folders(root) if _ABOUT_LISTS.search(path.name.lower())]
    return [*above, *(inner for path in above for inner in sub_folders(path))]


def _lists(place: Path, request: Request) -> dict[str, list[Path]]:
    """Files by the part that they are lists of."""
    found: dict[str, list[Path]] = {}
    for name in folder_names(place):
        stem = split_name(name)[0]
        part = part_of(stem)
        if part is None or not may_be_list(place / name):
            continue
        split = re.search(r"split_?0?(\d)", stem)
        if split is None or int(split[1]) == request.split:
            found.setdefault(part, []).append(place / name)
    return found


def _one(place: Path, paths: list[Path]) -> Path:
    def order(path: Path) -> tuple[bool, bool, int]:
        stem, extension = split_name(path.name)
        return not stem.isalpha(), "rawframes" in stem, LISTS.index(extension)

    first, *others = sorted(paths, key=order)
    if others and order(first) == order(others[0]):
        raise ConfigError(
            f"{place} has several lists of the same part",
            found=", ".join(path.name for path in sorted(paths)),
            fix="give the list file itself instead of the folder",
        )
    return first


def _table(root: Path) -> Path | None:
    """The one table in a folder that says which part each of its videos belongs to."""
    paths = [root / name for name in folder_names(root) if split_name(name)[1] in _TABLES]
    sources = [read_source(path) for path in paths if may_be_list(path)]
    found = [source.path for source in sources if table.has_parts(source) or kinetics.has_parts(source)]
    return _one(root, found) if found else None
