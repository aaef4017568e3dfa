"""Lists of videos and their classes, in the formats in which data sets are published and tools write them.

A path is a list file, or the root folder of a data set in its published layout; which it is and of what format is
found out from names, neighbours and the first lines.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.video.formats import folders, hmdb51, kinetics, plain, something, table, ucf101
from apt_edge.video.formats.roots import read_root
from apt_edge.video.formats.rows import IMAGE, VIDEO, Listing, Request, Row, other_parts, read_source
from apt_edge.video.labels import find_labels, key, numbers_by_name, read_labels
from apt_edge.video.locate import locate

_MODULES = (hmdb51, ucf101, folders, something, kinetics, table, plain)  # the last one takes what is left
FORMATS = tuple(
    name for module in (plain, ucf101, hmdb51, something, kinetics, folders, table) for name in module.NAMES
)
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One video.

    Attributes:
        path: a video file, a folder of frames, or an .npy of frames.
        label: class from 0; None: the list does not say.
        start, end: seconds; a trimmed segment of a longer video.
        frames: what the list promises of a folder of frames.
    """

    path: Path
    label: int | None
    start: float | None = None
    end: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class VideoList:
    """A list that was read.

    Attributes:
        items: the videos, in the list's order.
        labels: class names; numbers as text where nothing names them; empty where the list has no classes either.
        format: one of FORMATS.
        notes: what was found out or assumed, for people.
    """

    items: list[Item]
    labels: list[str]
    format: str
    notes: list[str]


def read_list(
    path: str | Path,
    part: str = "val",
    *,
    format: str | None = None,
    split: int = 1,
    labels: str | Path | None = None,
    root: str | Path | None = None,
) -> VideoList:
    """Read a list of videos.

    Args:
        path: a list file, or the root folder of a data set.
        part: `train`, `val` or `test`, of a folder or of a table that holds several; a list of one part is read as it
            is. Where a data set has no val part, its test part is taken, with a note.
        format: one of FORMATS; None finds it out.
        split: of the three official ones of UCF101 and HMDB51.
        labels: file of class names; None looks beside the list and one folder up.
        root: folder that relative paths start at; None tries the list's folder and its neighbours.

    Raises:
        ConfigError: the list is missing, empty or of no known format, a line has another form (its number is in the
            message), or classes and names do not fit.
        MissingDependency: a YAML page is needed and PyYAML is not installed.
    """
    path = Path(path)
    if part not in PARTS or (format is not None and format not in FORMATS):
        wrong, known = (f"part {part!r}", PARTS) if part not in PARTS else (f"format {format!r}", FORMATS)
        raise ConfigError(f"there is no {wrong}", fix=f"choose one of: {', '.join(known)}")
    base = Path(root) if root else None
    if base and not base.is_dir():
        raise ConfigError(f"the root of the videos {base} is no folder", fix="give the folder that paths start at")
    request = Request(part, split, format)
    listing = read_root(path, request, _read_file) if path.is_dir() else _read_file(path, request)
    if not listing.rows:
        raise ConfigError(f"{path} lists no video", fix="write one `video label` a line")
    rows, names = _numbered(path, listing, labels)
    paths, notes = locate(rows, listing.folder, base, part)
    items = [
        Item(found, row.label if isinstance(row.label, int) else None, row.start, row.end, row.frames)
        for found, row in zip(paths, rows, strict=True)
    ]
    return VideoList(items, names, listing.format, [*listing.notes, *notes])


def match_labels(videos: VideoList, names: Sequence[str]) -> list[Item]:
    """The items of a list with their classes renumbered to other names, a pack's or those of another part.

    Names that differ in case, spaces, underscores or brackets alone are the same class. Where either side has numbers
    for names, the numbers stand as they are.

    Raises:
        ConfigError: classes that occur in the list have no counterpart.
    """
    if list(videos.labels) == list(names):
        return videos.items
    used = sorted({item.label for item in videos.items if item.label is not None})
    if _are_numbers(videos.labels) or _are_numbers(names):
        if used and used[-1] >= len(names):
            example = next(item.path for item in videos.items if item.label == used[-1])
            raise ConfigError(
                f"the list uses class {used[-1]}, and there are {len(names)} classes",
                found=str(example),
                fix="classes count from 0: correct the list, or name the classes in a label file beside it",
            )
        if not _are_numbers(videos.labels) and len(videos.labels) != len(names):
            raise ConfigError(
                f"the list has {len(videos.labels)} classes with names, and {len(names)} without names are wanted",
                fix="give the label file that the numbers belong to",
            )
        return videos.items
    numbers = numbers_by_name(names)
    new = {label: _number(videos.labels[label], numbers) for label in used}
    if unknown := [videos.labels[label] for label in used if new[label] is None]:
        raise ConfigError(
            f"{len(unknown)} classes of the list are not among the {len(names)} that are wanted",
            found=f"{_quoted(unknown)}; wanted are {_quoted(names)}",
            fix="give a list of the same data set, or the label file that belongs to it",
        )
    return [
        item if item.label is None else Item(item.path, new[item.label], item.start, item.end, item.frames)
        for item in videos.items
    ]


def _read_file(path: Path, request: Request) -> Listing:
    name = path.name.lower()
    if name.endswith((*VIDEO, *IMAGE, ".npy")) and path.is_file():
        raise ConfigError(f"{path} is no list of videos", found="its extension", fix="write its path into a list")
    source = read_source(path)
    if not source.entries:
        raise ConfigError(f"{path} lists no video", fix="write one `video label` a line")
    for module in _MODULES:
        if request.format is None or request.format in module.NAMES:
            try:
                listing: Listing | None = module.read_file(source, request)
            except csv.Error as error:
                raise ConfigError(f"{path} is not CSV", found=str(error), fix="check its quotes") from None
            if listing is not None:
                return listing
    raise ConfigError(
        f"{path} is no list of the format {request.format}",
        found=repr(source.lines[0][:80]),
        fix=f"leave the format out, or choose one of: {', '.join(FORMATS)}",
    )


def _numbered(path: Path, listing: Listing, labels: str | Path | None) -> tuple[list[Row], list[str]]:
    """Rows whose labels are class numbers from 0, and the names of the classes."""
    rows, notes = listing.rows, listing.notes
    given = [row.label for row in rows if row.label is not None]
    numbers = [label for label in given if isinstance(label, int)]
    names = read_labels(labels) if labels else listing.names
    where = str(labels or path)
    if names is None and (found := find_labels(listing.folder, set(given))):
        names, where = found[0], str(found[1])
        notes.append(f"class names are those of {where}")
    if numbers:
        return _from_zero(path, rows, names, where, notes)
    if names is None:
        names = listing.fallback or sorted({str(label) for label in given})
        if names:
            notes.append("no file names the classes: they are numbered in alphabetical order")
    by_name = numbers_by_name(names)
    unknown = sorted({str(label) for label in given if _number(str(label), by_name) is None})
    if unknown:
        raise ConfigError(
            f"{path} has {len(unknown)} classes that {where} does not name",
            found=f"{_quoted(unknown)}; named are {_quoted(names)}",
            fix="correct the list, or give the label file that belongs to it (--labels)",
        )
    return [row if row.label is None else row._replace(label=_number(str(row.label), by_name)) for row in rows], names


def _from_zero(
    path: Path, rows: list[Row], names: list[str] | None, where: str, notes: list[str]
) -> tuple[list[Row], list[str]]:
    numbers = [row.label for row in rows if isinstance(row.label, int)]
    low, high = min(numbers), max(numbers)
    if names is None:
        if low:
            notes.append(f"no class 0 and no class names: if the classes count from {low}, give a label file")
        return rows, [str(i) for i in range(high + 1)]
    if low > 0 and path.is_file():  # the other parts know where the classes begin
        others = [row.label for row in _rows_of_other_parts(path) if isinstance(row.label, int)]
        low, high = min([low, *others]), max([high, *others])
    if low == 1 and high == len(names):
        notes.append("classes count from 1: 1 is taken off")
        return [row if row.label is None else row._replace(label=int(row.label) - 1) for row in rows], names
    if max(numbers) >= len(names):
        worst = next(row for row in rows if row.label == max(numbers))
        raise ConfigError(
            f"{path} uses class {max(numbers)} ({worst.paths[0]}), and there are {len(names)} class names",
            found=f"the names of {where}",
            fix="classes count from 0: correct the list or the label file",
        )
    return rows, names


def _rows_of_other_parts(path: Path) -> list[Row]:
    rows = []
    for part, other in other_parts(path).items():
        try:
            rows += _read_file(other, Request(part)).rows
        except AptEdgeError:  # it is not this list's business
            continue
    return rows


def _number(name: str, numbers: Mapping[str, int]) -> int | None:
    return numbers.get(name, numbers.get(key(name)))


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name == str(i) for i, name in enumerate(names))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
