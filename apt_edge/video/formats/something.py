"""Something-Something v2 (JSON: id and template), v1 and Jester (lines `id;class`)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import Listing, Request, Row, Source, folder_names, part_of, read_source

NAMES = ("ssv2", "jester")

_LINE = re.compile(r"(?P<id>\d+)(;(?P<label>.*))?")
_BRACKETS = str.maketrans("", "", "[]")


def read_file(source: Source, request: Request) -> Listing | None:
    """Class names come from the labels file beside the list, which the caller looks for."""
    if source.name.endswith(".json"):
        return _json(source, request)
    if request.format == "ssv2":
        raise ConfigError(
            f"{source.path} is no list of Something-Something v2",
            found=f"the extension {source.path.suffix!r}",
            fix="give something-something-v2-train.json or -validation.json",
        )
    head = source.head
    published = "jester" in source.name or "something" in source.name  # the test list has ids alone
    if not head or not all((match := _LINE.fullmatch(line)) and (match[2] or published) for line in head):
        if request.format is None:
            return None
        raise ConfigError(
            f"{source.path} is no list of Jester",
            found=repr(head[0][:80]) if head else "an empty file",
            fix="lines are `34870;Drumming Fingers`",
        )
    rows: list[Row] = []
    for number, line in source.entries:
        match = _LINE.fullmatch(line)
        if not match or bool(match["label"]) != bool(rows[0].label if rows else match["label"]):
            raise ConfigError(
                f"{source.path}, line {number} is not of the form `id;class`",
                found=repr(line[:80]),
                fix="lines are `34870;Drumming Fingers`",
            )
        rows.append(Row((match["id"],), match["label"] or None))
    return Listing(rows, "jester", folder=source.path.parent)


def _json(source: Source, request: Request) -> Listing | None:
    try:
        entries = json.loads(source.text)
        good = isinstance(entries, list) and all(isinstance(entry, dict) and "id" in entry for entry in entries)
    except ValueError:
        good = False
    if good and request.format is None:  # a table may have ids as well; only Something-Something has templates
        good = part_of(source.name) == "test" and set(entries[0]) == {"id"} if entries else False
        good = good or bool(entries and "template" in entries[0])
    if not good:
        if request.format is None:
            return None
        raise ConfigError(
            f"{source.path} is no list of Something-Something v2",
            found=repr(source.text[:60]),
            fix='it is JSON: [{"id": "78687", "template": "Holding [something]"}, ...]',
        )
    answers = _answers(source.path.parent)
    rows = []
    for entry in entries:
        template = entry.get("template") or answers.get(str(entry["id"]))
        rows.append(Row((f"{entry['id']}.webm",), template.translate(_BRACKETS) if template else None))
    missing = sum(row.label is None for row in rows)
    if 0 < missing < len(rows):
        raise ConfigError(
            f"{source.path} has {missing} videos without a template",
            found=f"the first is {next(row.paths[0] for row in rows if row.label is None)}",
            fix="take the published list, or remove them",
        )
    return Listing(rows, "ssv2", folder=source.path.parent)


def _answers(folder: Path) -> dict[str, str]:
    """Classes of the test part by video, from test-answers.csv where it is there."""
    for name in folder_names(folder):
        if name.lower().endswith("test-answers.csv"):
            matches = (_LINE.fullmatch(line) for _, line in read_source(folder / name).entries)
            return {match["id"]: match["label"] for match in matches if match and match["label"]}
    return {}
