"""Lists without a header: `video class`, `folder frames class`, or a video a line (VideoMAE, mmaction2)."""

from __future__ import annotations

import re
from collections.abc import Callable

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import VIDEO, Listing, Request, Row, Source, many_classes

NAMES = ("videomae", "mmaction", "rawframes")

_PAIR = re.compile(r"(?P<path>.*[^\s,;])\s*[\s,;]\s*(?P<label>-?\d+)")  # greedy: spaces inside the path stay in it
_TRIPLE = re.compile(r"(?P<path>.*[^\s,;])\s*[\s,;]\s*(?P<frames>-?\d+)\s*[\s,;]\s*(?P<label>-?\d+)")
_MMACTION = re.compile(
    r"_(split_\d|list)_(videos|rawframes)\b|^(.*_)?(train|val|test)_(video_)?(list|split_\d).*\.txt$"
)


def read_file(source: Source, request: Request) -> Listing:
    """Read the lines; classes are numbers, or names where the video's extension or a tab or comma ends the path.

    Raises:
        ConfigError: a line has another form than the list's others (its number is in the message).
    """
    head, notes = source.head, list[str]()
    name = "mmaction" if request.format == "mmaction" or _MMACTION.search(source.name) else "videomae"
    if request.format == "rawframes" or (request.format is None and _are_rawframes(head)):
        name, rows = "rawframes", _rows(source, _triple)
    elif all(_TRIPLE.fullmatch(line) and line.endswith(" -1") for line in head):  # `video 0 -1`: for pre-training
        rows = [row._replace(frames=None) for row in _rows(source, _triple)]
    elif any(map(_is_numbered, head)):
        word = next(filter(_is_named, source.entries), None)
        if word is None:
            rows = _from_zero(source, _rows(source, _pair))
        else:
            rows = _rows(source, _named)
            notes = [f"line {word[0]} has a word for its class: numbers are taken as names, too"]
    elif all(_ends_as_video(line) or not re.search(r"[\s,;]", line) for line in head):
        rows = _rows(source, lambda line: Row((_unquoted(line),), None))
    else:
        rows = _rows(source, _named)
    return Listing(rows, name, folder=source.path.parent, notes=notes)


def _are_rawframes(head: list[str]) -> bool:
    matches = [_TRIPLE.fullmatch(line) for line in head]
    return bool(head) and all(match and not _ends_as_video(match["path"]) for match in matches)


def _rows(source: Source, parse: Callable[[str], Row]) -> list[Row]:
    rows = []
    for number, line in source.entries:
        try:
            rows.append(parse(line))
        except _ManyClasses:
            raise many_classes(source.path, number, line) from None
        except ValueError as error:
            raise ConfigError(
                f"{source.path}, line {number} is not of the form {error}",
                found=repr(line[:80]),
                fix="write the path, a space or a comma, and the class number counted from 0",
            ) from None
    return rows


def _pair(line: str) -> Row:
    match = _PAIR.fullmatch(line)
    if not match:
        raise ValueError("`video label`")
    path = _unquoted(match["path"])
    if (inner := _PAIR.fullmatch(path)) and _ends_as_video(re.sub(r"([\s,;]+-?\d+)+$", "", path)):
        raise _ManyClasses(inner["label"])
    return Row((path,), int(match["label"]))


def _triple(line: str) -> Row:
    match = _TRIPLE.fullmatch(line)
    if not match:
        raise ValueError("`folder frames label`")
    label = int(match["label"])
    if label < -1:
        raise ValueError("`folder frames label`, the label counted from 0,")
    path = _unquoted(match["path"])
    if _TRIPLE.fullmatch(f"{path} 0") and _ends_as_video(re.sub(r"([\s,;]+-?\d+)+$", "", path)):
        raise _ManyClasses(line)
    return Row((path,), None if label == -1 else label, frames=int(match["frames"]))


def _named(line: str) -> Row:
    """`video name`: the path ends at a tab, at a video's extension, or at the last comma or semicolon."""
    if "\t" in line:
        path, _, label = line.rpartition("\t")
    elif match := re.fullmatch(rf"(?i)(.*({'|'.join(map(re.escape, VIDEO))})\"?)\s*[\s,;]\s*(.+)", line):
        path, label = match[1], match[3]
    else:
        path, _, label = line.rpartition("," if "," in line else ";")
    if not path.strip() or label.strip() in ("", "-1"):
        raise ValueError("`video label`")
    return Row((_unquoted(path.strip()),), _unquoted(label.strip()))


def _from_zero(source: Source, rows: list[Row]) -> list[Row]:
    """The rows, where all classes or none are -1."""
    if all(row.label == -1 for row in rows):
        return [row._replace(label=None) for row in rows]
    for (number, line), row in zip(source.entries, rows, strict=True):
        if isinstance(row.label, int) and row.label < 0:
            raise ConfigError(
                f"{source.path}, line {number} is not of the form `video label`",
                found=repr(line[:80]),
                fix="classes count from 0; -1 on every line makes a list without classes",
            )
    return rows


def _is_numbered(line: str) -> bool:
    return bool(_PAIR.fullmatch(line)) and not _ends_as_video(line)


def _is_named(entry: tuple[int, str]) -> bool:
    """Whether a line of a list ends in a word: numbers on the other lines are then names as well."""
    line = entry[1]
    if _PAIR.fullmatch(line) or _ends_as_video(line):
        return False
    try:
        return bool(re.search(r"[^\W\d_]", str(_named(line).label)))
    except ValueError:
        return False


def _ends_as_video(text: str) -> bool:
    return text.rstrip('"').lower().endswith((*VIDEO, ".npy"))


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


class _ManyClasses(Exception):
    """A line with several classes."""
