"""Lists of videos and their classes, in the formats in which data sets are published and tools write them.

A path is a list file, or the root folder of a data set in its published layout; which it is and of what format is
found out from names, neighbours and the first lines.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apt_edge.errors import ConfigError
from apt_edge.video.formats import folders, hmdb51, kinetics, plain, something, table, ucf101
from apt_edge.video.formats.roots import read_root
from apt_edge.video.formats.rows import IMAGE, VIDEO, Listing, Request, read_source
from apt_edge.video.labels import numbers_by_name
from apt_edge.video.locate import locate
from apt_edge.video.numbering import number, number_of, quoted

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
    rows, names = number(path, listing, labels, _read_file)
    paths, notes = locate(rows, listing.folder, base, part)
    items = [
        Item(found, row.label if isinstance(row.label, int) else None, row.start, row.end, row.frames)
        for found, row in zip(paths, rows, strict=True)
    ]
    return VideoList(items, names, listing.format, [*listing.notes, *notes])


def match_labels(videos: VideoList, names: Sequence[str]) -> VideoList:
    """A list with its classes renumbered to other names, a pack's or those of another part; `labels` are these names.

    Classes match by name: those that differ in case, spaces, underscores, hyphens, quotes or brackets alone are the
    same, and numbers that name classes are names as well. Where only one side has names, and the other counts from 0,
    the numbers stand as they are, and a note says so.

    Raises:
        ConfigError: classes that occur in the list have no counterpart.
    """
    if list(videos.labels) == list(names):
        return videos
    numbers = numbers_by_name(names)
    used = sorted({item.label for item in videos.items if item.label is not None})
    new = {label: number_of(videos.labels[label], numbers) for label in used}
    unknown = [videos.labels[label] for label in used if new[label] is None]
    notes = []
    if unknown and (
        (_are_numbers(videos.labels) and _are_words(names)) or (_are_words(videos.labels) and _are_numbers(names))
    ):
        notes.append(_match_numbers(videos, names, used))
        new = dict(zip(used, used, strict=True))
    elif unknown:
        raise ConfigError(
            f"{len(unknown)} classes of the list are not among the {len(names)} that are wanted",
            found=f"{quoted(unknown)}; wanted are {quoted(names)}",
            fix="give a list of the same data set, or the label file that belongs to it",
        )
    elif _are_numbers(videos.labels) and any(new[label] != label for label in used):
        notes.append(f"the list's class numbers are taken as the names {quoted(names)}")
    items = [item if item.label is None else replace(item, label=new[item.label]) for item in videos.items]
    return VideoList(items, list(names), videos.format, [*videos.notes, *notes])


def _match_numbers(videos: VideoList, names: Sequence[str], used: Sequence[int]) -> str:
    """The note on a list whose numbers stand for names, or the other way round; raises ConfigError."""
    if used[-1] >= len(names):
        example = next(item.path for item in videos.items if item.label == used[-1])
        raise ConfigError(
            f"the list uses class {used[-1]}, and there are {len(names)} classes",
            found=str(example),
            fix="classes count from 0: correct the list, or name the classes in a label file beside it",
        )
    if _are_numbers(videos.labels):
        return f"the list has no class names: its numbers are taken as the {len(names)} classes {quoted(names)}"
    if len(videos.labels) != len(names):
        raise ConfigError(
            f"the list has {len(videos.labels)} classes with names, and {len(names)} without names are wanted",
            fix="give the label file that the numbers belong to",
        )
    return f"classes without names are wanted: {quoted(videos.labels)} are taken as the numbers 0 to {len(names) - 1}"


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
                listing.file = path if module is not hmdb51 else None
                return listing
    raise ConfigError(
        f"{path} is no list of the format {request.format}",
        found=repr(source.lines[0][:80]),
        fix=f"leave the format out, or choose one of: {', '.join(FORMATS)}",
    )


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether names are but the numbers from 0."""
    return all(name == str(i) for i, name in enumerate(names))


def _are_words(names: Sequence[str]) -> bool:
    return not all(name.isdecimal() for name in names)
