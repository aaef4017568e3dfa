"""Where the videos of a list lie: relative paths, copies without class folders, converted files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from apt_edge.video.formats.rows import VIDEO, Row, holds_pictures, part_of_folder, sub_folders

_TIMES = re.compile(r"_\d{6}_\d{6}$")
SAMPLE = 50  # videos that decide where the paths start
_KNOWN = {"videos", "video", "clips", "data", "frames", "rawframes", "compress"}
_KNOWN |= {"ucf-101", "ucf101", "hmdb51", "hmdb51_org", "hmdb"}  # beside 20bn-*, videos_* and names of parts


@dataclass
class _Shelf:
    """Names in folders, each folder listed once: a question for each of 300,000 files is slow on network disks."""

    names: dict[str, dict[str, str]] = field(default_factory=dict)

    def find(self, path: str) -> str | None:
        """The path itself, or its neighbour with another video extension or none (a folder of frames)."""
        folder, name = os.path.split(path)
        names = self.listed(folder)
        found = names.get("=" + name) or names.get(_stem(name))
        if found is None:
            return None
        found_path = os.path.join(folder, found)
        is_video = found == name or found != _stem(found)
        return found_path if is_video or holds_pictures(found_path) else None

    def listed(self, folder: str) -> dict[str, str]:
        """Names in a folder, by `=name` and by stem."""
        if folder not in self.names:
            try:
                found = sorted(os.listdir(folder or "."))
            except OSError:
                found = []
            self.names[folder] = {_stem(name): name for name in found} | {"=" + name: name for name in found}
        return self.names[folder]


def locate(rows: Sequence[Row], list_folder: Path, root: Path | None, part: str) -> tuple[list[Path], list[str]]:
    """Paths of the videos of a list, and notes on how they were found.

    Relative paths start at the folder under which most of 50 videos lie, spread over the list: `root` and the known
    video folders in it where it is given, else the list's folder, the two above it, the known video folders in these,
    and the working directory. A single video elsewhere is chance, unless it is most of the list: the list's own folder
    (or `root`) is left for more than one. A video that is nowhere keeps its path: reading it will say so.
    """
    shelf = _Shelf()
    bases = [root, *_video_folders(root, part)] if root else [*_around(list_folder, part), Path()]
    places = list(dict.fromkeys(map(str, bases)))
    sample = [rows[i] for i in sorted({i * (len(rows) - 1) // max(SAMPLE - 1, 1) for i in range(SAMPLE)})]
    spellings = max(len(row.paths) for row in rows)
    scores = {
        (base, spelling): sum(shelf.find(os.path.join(base, _spelt(row, spelling))) is not None for row in sample)
        for spelling in range(spellings)
        for base in places
    }
    best = max(scores.items(), key=lambda entry: entry[1])
    own = max((entry for entry in scores.items() if entry[0][0] == places[0]), key=lambda entry: entry[1])
    (base, spelling), hits = best if best[1] > own[1] and (best[1] > 1 or 2 * best[1] > len(sample)) else own
    above = {Path(), *list_folder.resolve().parents, *list_folder.absolute().parents}  # other people's folders
    inside = {} if hits else _one_down(rows, [place for place in places if Path(place) not in above], shelf)
    if not hits:
        base, spelling = str(root or list_folder), 0
    paths, renamed, missing = [], "", 0
    for row in rows:
        spelt = _spelt(row, spelling)  # mostly it is there
        first, wanted = os.path.join(base, spelt), (os.path.join(base, text) for text in row.paths if text != spelt)
        found = next(filter(None, map(shelf.find, chain([first], wanted))), inside.get(row.paths[0]))
        missing += found is None
        if found and not renamed and not inside and found not in (first, *(os.path.join(base, x) for x in row.paths)):
            renamed = f"{os.path.basename(found)} for {os.path.basename(first)}"
        paths.append(Path(found or first))
    notes = []
    if hits and Path(base) not in (list_folder, root) and not os.path.isabs(_spelt(rows[0], spelling)):
        notes.append(f"paths start at {base}")
    if hits and (other := next((row for row in rows if _spelt(row, spelling) != row.paths[0]), None)):
        notes.append(f"files are named as {_spelt(other, spelling)}, the list says {other.paths[0]}")
    if inside:
        notes.append(f"videos are known by their ids alone, found as {next(iter(inside.values()))}")
    if renamed:
        notes.append(f"files with another extension than the list's are taken: {renamed}")
    if missing == len(rows):
        notes.append(f"none of the {missing} videos is there: give the folder that their paths start at (--root)")
    elif missing:
        notes.append(f"{missing / len(rows):.1%} of the videos are not there ({missing} of {len(rows)})")
    return paths, notes


def _one_down(rows: Sequence[Row], places: Sequence[str], shelf: _Shelf) -> dict[str, str]:
    """Files of a list of bare ids: `<class>/<id>.mp4` or `<class>/<id>_<start>_<end>.mp4`, all under one place."""
    wanted = {row.paths[0] for row in rows}
    if any(os.path.basename(text) != text for text in wanted):
        return {}
    best: dict[str, str] = {}
    for place in places:
        found = {}
        for folder in sub_folders(Path(place)):
            for name in {*shelf.listed(str(folder)).values()}:
                stem = _stem(name)
                if identity := next((text for text in (stem, _TIMES.sub("", stem)) if text in wanted), None):
                    found[identity] = str(folder / name)
        best = max(best, found, key=len)
    return best


def _spelt(row: Row, spelling: int) -> str:
    return row.paths[min(spelling, len(row.paths) - 1)]


def _around(folder: Path, part: str) -> Iterator[Path]:
    for place in (folder, *Path(os.path.abspath(folder)).parents[:2], *folder.resolve().parents[:2]):
        yield place
        yield from _video_folders(place, part)


def _video_folders(place: Path, part: str) -> Iterator[Path]:
    """Folders that are known to hold videos, those of the part first."""
    found = sub_folders(place)
    of_part = [folder for folder in found if part_of_folder(folder.name) == part]
    known = [folder for folder in found if _is_known(folder.name)]
    yield from of_part
    for folder in known:
        yield from (inner for inner in sub_folders(folder) if part_of_folder(inner.name) == part)
        yield folder


def _is_known(name: str) -> bool:
    name = name.lower()
    return name in _KNOWN or name.startswith("20bn-") or part_of_folder(name) is not None


def _stem(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in VIDEO else name
