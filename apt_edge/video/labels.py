"""Class names: the files that name them, in every form they come in, and names that differ in spelling alone."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError, MissingDependency
from apt_edge.video.formats.rows import folder_names, header_of, names_videos, read_text

_FIRST = re.compile(r"(?P<number>\d+)\s*[\s,;]\s*(?P<name>\S.*)")  # 1 ApplyEyeMakeup
_LAST = re.compile(r"(?P<name>.*\S)\s*[\s,;]\s*(?P<number>\d+)")  # abseiling 0
_NAMES, _NUMBERS = ("name", "class_name", "label_name", "label", "class"), ("id", "index", "label_id", "class_id")
_BESIDE = [  # likeliest first
    re.compile(pattern)
    for pattern in (
        r"labels\.txt",
        r"classind\.txt",
        r"(.*[_-])?label_?map.*\.txt",
        r"(class(es|_names|_list|names)|categor(y|ies))\.txt",
        r".*class2ind\.(txt|json)",
        r"(.*[_-])?labels\.json",
        r"id2label\.json|label2id\.json|class_?names\.json",
        r"config\.json",
        r"(.*[_-])labels\.csv|labels\.csv",
        r".*\.ya?ml",
    )
]


def read_labels(path: str | Path) -> list[str]:
    """Class names by number.

    One name a line (line 1 is class 0); lines `1 ApplyEyeMakeup` or `abseiling 0`, counted from 0 or 1; CSV with a
    column `name`; JSON of names, of numbers by name or names by number, also under `id2label`, `label2id` or `names`
    (Hugging Face's config.json); YAML with `names` or `label_map`.

    Raises:
        ConfigError: the file is missing or empty, a line between names is blank, a name occurs twice, a number lacks.
        MissingDependency: YAML, and PyYAML is not installed.
    """
    return _read(Path(path))[0]


def counts_from(path: Path) -> int | None:
    """The first class number that a label file says, None where the order of its lines decides; raises as above."""
    return _read(path)[1]


def _read(path: Path) -> tuple[list[str], int | None]:
    """Class names by number, and the first number if there are numbers in the file."""
    text = read_text(path, "label file")
    kind = path.suffix.lower()
    if kind in (".json", ".yaml", ".yml"):
        return _of_structure(path, _parsed_json(path, text) if kind == ".json" else parse_yaml(path, text))
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ConfigError(f"{path} names no class", fix="write one class name a line")
    columns = _of_columns(path, lines) if kind in (".csv", ".tsv") else None
    return columns or _of_pairs(path, [line for line in lines if line]) or (_of_lines(path, lines), None)


def find_labels(folder: Path, used: Collection[int | str]) -> tuple[list[str], Path] | None:
    """Names of a file in a folder or the one above it: the likeliest that has all classes which are used.

    A file beside the list that lacks some is given all the same, so that its mistake is told; one above is not.

    Raises:
        ConfigError: what looks like a label file beside the list is damaged.
    """
    above = folder.absolute().parent
    for place in (folder, above):
        found = []
        for path in _candidates(place):
            try:
                found.append((read_labels(path), path))
            except MissingDependency:
                continue
            except ConfigError:
                if place != above:
                    raise
        fitting = [entry for entry in found if _fits(entry[0], used)]
        if fitting or (found and place != above):
            return (fitting or found)[0]
    return None


def _candidates(place: Path) -> list[Path]:
    names = folder_names(place)
    paths = [place / name for pattern in _BESIDE for name in names if pattern.fullmatch(name.lower())]
    return [path for path in paths if path.is_file() and _speaks_of_classes(path)]


def _fits(names: Sequence[str], used: Collection[int | str]) -> bool:
    numbers = numbers_by_name(names)
    return all(
        label <= len(names) if isinstance(label, int) else label in numbers or key(label) in numbers for label in used
    )


def key(name: str) -> str:
    """A name without case, brackets, quotes, spaces and underscores: spellings of one class share it."""
    return re.sub(r"[\s_\-\[\]\"']+", "", name.casefold())


def numbers_by_name(names: Sequence[str]) -> dict[str, int]:
    """Class numbers by name and by `key`, where that is unique."""
    keys = [key(name) for name in names]
    by_key = {text: i for i, text in enumerate(keys) if keys.count(text) == 1}
    return by_key | {name: i for i, name in enumerate(names)}


def parse_yaml(path: Path, text: str) -> Any:
    """The content of a YAML page; raises MissingDependency or ConfigError."""
    try:
        yaml = import_module("yaml")
    except ImportError:
        raise MissingDependency(
            f"{path} is a YAML page, and PyYAML is not installed",
            fix="pip install pyyaml, or write one class name a line into labels.txt",
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML", found=str(error).split("\n")[0], fix="correct it") from None


def _parsed_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON", found=str(error), fix="correct it") from None


def _speaks_of_classes(path: Path) -> bool:
    """Whether a file that bears a general name is about classes at all."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return bool(re.search(r"^\s*(names|label_map)\s*:", read_text(path, "page"), re.MULTILINE))
    if path.suffix.lower() == ".csv":  # a table of videos may be called labels.csv
        return not names_videos(read_text(path, "label file").split("\n")[0])
    return path.name.lower() != "config.json" or bool(re.search('"(id2label|label2id)"', read_text(path, "page")))


def _of_lines(path: Path, lines: list[str]) -> list[str]:
    for number, label in enumerate(lines, 1):
        if not label:
            raise ConfigError(f"{path}, line {number} is blank", fix="a blank line would shift the classes: remove it")
        if (first := lines.index(label) + 1) != number:
            raise ConfigError(
                f"{path}, line {number} repeats a class", found=f"{label!r} is on line {first}", fix="remove one"
            )
    return lines


def _of_pairs(path: Path, lines: list[str]) -> tuple[list[str], int] | None:
    """None where these are no pairs, or names that end in numbers: `step 1`, `step 2`."""
    for form in (_FIRST, _LAST):
        matches = [match for match in map(form.fullmatch, lines) if match]
        numbers = sorted(int(match["number"]) for match in matches)
        if lines and len(matches) == len(lines) and numbers in (_range(0, lines), _range(1, lines)):
            names = {match["name"].strip('"'): int(match["number"]) for match in matches}
            if len(names) == len(lines) or re.search(r"[,;\t]", lines[0]):
                return _in_order(path, names, len(lines))
    return None


def _of_columns(path: Path, lines: list[str]) -> tuple[list[str], int | None] | None:
    header = header_of(lines[0])
    name, number = (next((cell for cell in header if cell in known), None) for known in (_NAMES, _NUMBERS))
    if name is None or len(lines) < 2:
        return None
    rows = [dict(zip(header, row, strict=False)) for row in csv.reader(lines[1:])]
    names = [row.get(name, "").strip() for row in rows]
    if number is None:
        return _of_lines(path, names), None
    return _of_structure(path, {text: row.get(number) for text, row in zip(names, rows, strict=True)})


def _of_structure(path: Path, content: Any) -> tuple[list[str], int | None]:
    for name in ("id2label", "label2id", "names", "dataset", "dataset_config", "label_map"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping | list):
            content = content[name]
    if content and isinstance(content, list) and all(isinstance(name, str) for name in content):
        return _of_lines(path, [name.strip() for name in content]), None
    if isinstance(content, Mapping) and content:
        by_name = {str(name): number for name, number in content.items()}
        if all(str(name).isdecimal() for name in content):
            by_name = {str(name): number for number, name in content.items()}
        try:
            return _in_order(path, {name.strip('"'): int(number) for name, number in by_name.items()}, len(content))
        except (TypeError, ValueError):
            pass
    raise ConfigError(
        f"{path} names no class",
        found=repr(content)[:80],
        fix='give a list of names, {"name": number} or {"id2label": {"0": "name"}}',
    )


def _in_order(path: Path, numbers: dict[str, int], count: int) -> tuple[list[str], int]:
    """Names by number, and the first number, 0 or 1."""
    if len(numbers) < count:
        raise ConfigError(
            f"{path} repeats a class", found=f"{count} numbers, {len(numbers)} names", fix="each class has its own name"
        )
    found = sorted(numbers.values())
    if found not in (_range(0, found), _range(1, found)):
        gap = next((n for n in range(found[0], found[0] + count) if n not in found), found[0])
        raise ConfigError(
            f"{path} does not number its classes one after the other",
            found=f"{count} names, numbers {found[0]} to {found[-1]}, {gap} is "
            + ("where they begin" if gap in found else "missing"),
            fix="count from 0 or from 1, each number once",
        )
    return sorted(numbers, key=lambda name: numbers[name]), found[0]


def _range(first: int, items: Sequence[object]) -> list[int]:
    return list(range(first, first + len(items)))
