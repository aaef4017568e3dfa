"""List files: one video and its class number a line, and the class names beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from apt_edge.errors import ConfigError

_LINE = re.compile(r"(?P<path>.*[^\s,])\s*[\s,]\s*(?P<label>\d+)")  # greedy: spaces inside the path stay in it


@dataclass(frozen=True)
class Item:
    """One video with its class number."""

    path: Path
    label: int


def read_list(path: str | Path) -> list[Item]:
    """Read lines `video label`, separated by spaces or a comma; the format of VideoMAE's `train.csv`.

    A path may hold spaces and is relative to the folder of the list. Empty lines are skipped.

    Raises:
        ConfigError: the list is missing or empty, or a line has another form (its number is in the message).
    """
    path = Path(path)
    items = []
    for number, line in enumerate(_lines(path, "video list"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise ConfigError(
                f"{path}, line {number} is not of the form `video label`",
                found=repr(line.strip()[:80]),
                fix="write the path, a space or a comma, and the class number counted from 0",
            )
        items.append(Item(path.parent / match["path"], int(match["label"])))
    if not items:
        raise ConfigError(f"{path} lists no video", fix="write one `video label` a line")
    return items


def read_labels(path: str | Path) -> list[str]:
    """Read class names, one a line; line 1 is class 0.

    Raises:
        ConfigError: the file is missing or empty, a line between names is blank, or a name occurs twice.
    """
    path = Path(path)
    labels = [line.strip() for line in _lines(path, "label file")]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise ConfigError(f"{path} names no class", fix="write one class name a line")
    for number, label in enumerate(labels, 1):
        if not label:
            raise ConfigError(f"{path}, line {number} is blank", fix="a blank line would shift the classes: remove it")
        if (first := labels.index(label) + 1) != number:
            raise ConfigError(
                f"{path}, line {number} repeats a class", found=f"{label!r} is on line {first}", fix="remove one"
            )
    return labels


def _lines(path: Path, kind: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise ConfigError(f"the {kind} {path} does not exist", fix="check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"the {kind} {path} is a folder", fix="give the file inside it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {kind} {path} is not UTF-8 text", found=str(error), fix="save it as UTF-8") from None
