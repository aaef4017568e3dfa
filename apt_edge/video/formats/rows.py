"""What every list format gives and takes: rows as written, before classes are numbered and files are looked for."""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from apt_edge.errors import ConfigError

VIDEO = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv")
IMAGE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LISTS = (".csv", ".txt", ".tsv", ".jsonl", ".json")  # extensions of lists, likeliest first
PATH_COLUMNS = (  # likeliest first
    *("path", "video_path", "file_path", "filepath", "file_name", "filename", "file"),
    *("video", "clip", "frame_dir", "video_name", "video_id", "id"),
)
SNIFFED = 200  # lines that decide what a list is

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "validate", "dev"),
    "test": ("test", "testing", "eval"),
}
_OF_VIDEOS = {"videos", "video", "frames", "rawframes", "clips", "set", "p", "px", "dense", "cache"}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_NO_LIST = re.compile(r"label|class|answers|map|replacement")
_VIDEO_PATH = re.compile(rf"(?i)({'|'.join(map(re.escape, VIDEO))})([\s,;\"]|$)")
_INSTEAD = {"val": "test", "test": "val"}  # a data set with one held-out part uses it for both


class Row(NamedTuple):
    """One video: spellings of its path, likeliest first, and its class as a number, a name or unknown."""

    paths: tuple[str, ...]
    label: int | str | None
    start: float | None = None
    end: float | None = None
    frames: int | None = None


@dataclass
class Listing:
    """What a format found.

    Attributes:
        rows: of the part that was asked for; all labels are numbers, or all are names, or all are None.
        format: one of `lists.FORMATS`.
        names: class names by number, where the format itself decides them.
        fallback: the same, for when no file names the classes either.
        folder: where the list lies, which relative paths and class names are looked for around.
        notes: for people.
        file: the list file; None where folders or several files are the list.
        numbers: class numbers of all its parts, where it holds several and rows are those of one.
    """

    rows: list[Row]
    format: str
    names: list[str] | None = None
    fallback: list[str] | None = None
    folder: Path = field(default_factory=Path)
    notes: list[str] = field(default_factory=list)
    file: Path | None = None
    numbers: set[int] = field(default_factory=set)


class Request(NamedTuple):
    """What is asked of a format: part `train`, `val` or `test`, official split 1 to 3, the format that is forced."""

    part: str = "val"
    split: int = 1
    format: str | None = None


@dataclass(frozen=True)
class Source:
    """A list file: its path, its name in lower case without .gz, and its text."""

    path: Path
    name: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their ends."""
        return self.text.split("\n")

    @cached_property
    def entries(self) -> list[tuple[int, str]]:
        """Line numbers from 1 and lines that are not blank, white space around them removed."""
        return [(number, line.strip()) for number, line in enumerate(self.lines, 1) if line.strip()]

    @property
    def head(self) -> list[str]:
        """The first lines that are not blank, which decide what the list is."""
        return [line for _, line in self.entries[:SNIFFED]]


def read_text(path: Path, kind: str) -> str:
    """UTF-8 text of a file or a .gz, without byte order mark, its lines ended by \\n; raises ConfigError."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"the {kind} {path} does not exist", fix="check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"the {kind} {path} is a folder", fix="give the file inside it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {kind} {path} is not UTF-8 text", found=str(error), fix="save it as UTF-8") from None
    except (OSError, EOFError) as error:
        raise ConfigError(f"the {kind} {path} cannot be read", found=str(error), fix="check the file") from None
    if "\0" in text:
        raise ConfigError(
            f"the {kind} {path} is not text", found="zero bytes", fix="give the list, not a video or a model"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def header_of(line: str, delimiter: str = ",") -> list[str]:
    """Column names in lower case with underscores; none in a line that is too long to be a header."""
    cells = next(csv.reader([line], delimiter=delimiter), []) if len(line) < 10_000 else []
    return [cell.strip().lower().replace(" ", "_") for cell in cells]


def read_source(path: Path) -> Source:
    """A list file as the formats take it; raises ConfigError."""
    return Source(path, path.name.lower().removesuffix(".gz"), read_text(path, "video list"))


def part_of(name: str) -> str | None:
    """The part that a name of a list or a column speaks of: `ucf101_train_split_1.txt` is `train`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_PART_OF[word] for word in words if word in _PART_OF), None)


def part_of_folder(name: str) -> str | None:
    """The part that a folder of videos is: `val`, `videos_val` or `val_256`, but not any that has the word in it."""
    words = {word for word in re.split(r"[^a-z]+", name.lower()) if word}
    return part_of(name) if len(words - _OF_VIDEOS) == 1 else None


def take_part(available: Mapping[str, object], part: str, where: Path, notes: list[str]) -> str:
    """The part to read: the one asked for, or the other held-out one with a note; raises ConfigError."""
    if part in available:
        return part
    other = _INSTEAD.get(part)
    if other in available:
        notes.append(f"{where} has no {part} part: its {other} part is taken")
        return str(other)
    raise ConfigError(
        f"{where} has no {part} part",
        found=f"parts: {', '.join(sorted(available)) or 'none'}",
        fix=f"name the list of the {part} part itself",
    )


def split_name(name: str) -> tuple[str, str]:
    """Stem and extension of a list's name in lower case, without .gz."""
    name = name.lower().removesuffix(".gz")
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if dot else (name, "")


def may_be_list(path: Path) -> bool:
    """Whether a file may list videos: its name speaks of nothing else, or its content does (train_labels.csv)."""
    if split_name(path.name)[1] not in LISTS or not path.is_file():
        return False
    try:
        return not _NO_LIST.search(path.name.lower()) or names_videos(read_source(path).lines[0])
    except ConfigError:  # it is told of where it is read as what its name says
        return False


def names_videos(line: str) -> bool:
    """Whether the first line of a file shows that it lists videos, whatever its name: a header, or a video's path."""
    columns = {*header_of(line), *header_of(line, "\t"), *header_of(line, ";")}
    return bool(columns & (set(PATH_COLUMNS) - {"id"})) or bool(_VIDEO_PATH.search(line))


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their numbers: by number where all are numbers, else by alphabet."""
    names = list(names)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def other_parts(path: Path) -> dict[str, Path]:
    """Lists beside a list that bear its name but for the part: train.csv of val.csv."""
    own = part_of(path.name)
    if own is None:
        return {}
    found = {}
    for name in folder_names(path.parent):
        part = part_of(name)
        if part and part != own and _without_part(name) == _without_part(path.name):
            found[part] = path.parent / name
    return found


def folder_names(folder: Path) -> list[str]:
    """Sorted names in a folder, none where it cannot be read; hidden ones are left out."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def sub_folders(folder: Path) -> list[Path]:
    """Sorted folders inside a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError:
        return []


def holds_pictures(folder: str | Path) -> bool:
    """Whether pictures lie in a folder itself; the first that is met decides."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE) for entry in entries)
    except OSError:
        return False


def many_classes(source: Path, number: int, text: str) -> ConfigError:
    """The error of a video with several classes."""
    return ConfigError(
        f"{source}, line {number} gives a video several classes",
        found=repr(text[:80]),
        fix="a softmax over classes needs exactly one each: keep one class a video",
    )


def _without_part(name: str) -> str:
    return "".join("*" if word in _PART_OF else word for word in re.split(r"([^a-z]+)", name.lower()))
