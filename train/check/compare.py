"""What one video has in common with another: two lines that show the same, two parts that share it, two classes for it.

Videos are the same when their paths or their bytes are, and their segments overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Any

from apt_edge.errors import ConfigError, reason_of
from apt_edge.files import as_text
from apt_edge.video.lists import VideoList, match_labels


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        path: as text.
        content: sha256 of the bytes where another file has as many, else the path.
        start, end: of the segment, seconds.
        label: name of the class.
    """

    path: str
    content: str
    start: float | None
    end: float | None
    label: str | None

    @property
    def key(self) -> tuple[str, float | None, float | None]:
        """Equal for entries that show exactly the same."""
        return self.content, self.start, self.end

    def overlaps(self, other: Entry) -> bool:
        """Whether two segments of one video share a moment."""
        ends = (inf if entry.end is None else entry.end for entry in (self, other))
        return max(self.start or 0.0, other.start or 0.0) < min(ends)


def entries(lists: Mapping[str, VideoList], contents: Mapping[str, str]) -> tuple[dict[str, list[Entry]], list[str]]:
    """The lines of every part, with classes under the names of one of them; notes on parts with other classes.

    Args:
        lists: by name of the part.
        contents: sha256 by path as text, where it is known.
    """
    found, notes = dict[str, list[Entry]](), list[str]()
    names = max((videos.labels for videos in lists.values()), key=len)  # a short list may not have every class
    for part, videos in lists.items():
        labels = list[str]()
        try:
            if videos.labels:
                videos = match_labels(videos, names)
                labels = list(map(as_text, names))
        except ConfigError as error:
            notes.append(f"the classes of the {part} part are not compared: {reason_of(error, '')}")
        found[part] = [
            Entry(
                as_text(item.path),
                contents.get(as_text(item.path), as_text(item.path)),
                item.start,
                item.end,
                labels[item.label] if labels and item.label is not None else None,
            )
            for item in videos.items
        ]
    return found, notes


def contradictions(everything: Mapping[str, Sequence[Entry]]) -> dict[tuple[str, int], str]:
    """Why a line (part, place) contradicts another: the same video, and the same segment of it, has two classes."""
    groups: dict[Any, list[tuple[str, int, Entry]]] = defaultdict(list)
    for part, lines in everything.items():
        for place, entry in enumerate(lines):
            if entry.label is not None:
                groups[entry.key].append((part, place, entry))
    reasons = {}
    for group in groups.values():
        if len({entry.label for _, _, entry in group}) == 1:
            continue
        for part, place, entry in group:
            other, twin = next((name, twin) for name, _, twin in group if twin.label != entry.label)
            where = f" as {twin.path}" if twin.path != entry.path else ""
            where += f" in the {other} part" if other != part else ""
            reasons[part, place] = f"has two classes: {entry.label!r} here, {twin.label!r}{where or ' in another line'}"
    return reasons


def duplicates(lines: Sequence[Entry]) -> list[list[str]]:
    """Groups of paths of lines that show the same."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for entry in lines:
        groups[entry.key].append(entry.path)
    return [paths for paths in groups.values() if len(paths) > 1]


def shared(everything: Mapping[str, Sequence[Entry]], checked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Videos that two parts have in common, at least one of which is checked: see `check_list`."""
    for name, other in combinations(everything, 2):
        if name not in checked and other not in checked:
            continue
        twins: dict[str, list[Entry]] = defaultdict(list)
        for entry in everything[other]:
            twins[entry.content].append(entry)
        for entry in everything[name]:
            twin = next((twin for twin in twins[entry.content] if entry.overlaps(twin)), None)
            if twin is not None:
                found = {"parts": [name, other], "paths": [entry.path, twin.path]}
                segments = [[entry.start, entry.end], [twin.start, twin.end]]
                trimmed = segments != [[None, None]] * 2
                same = "path" if twin.path == entry.path else "content"
                yield {**found, "same": same} | ({"segments": segments} if trimmed else {})
