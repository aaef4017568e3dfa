"""A folder of class folders, with or without train/ and val/ above them; TAO's, whose clips hold rgb/*.png."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import (
    VIDEO,
    Listing,
    Request,
    Row,
    Source,
    folder_names,
    holds_pictures,
    in_order,
    part_of,
    part_of_folder,
    sub_folders,
    take_part,
)
from apt_edge.video.labels import parse_yaml, read_labels

NAMES = ("folders", "tao")

DEPTH = 2  # levels of folders below a class folder that are looked into

Classes = dict[str, list[Path]]  # paths of its clips by class


class Found(NamedTuple):
    """What lies below a class folder: video files, folders of pictures, and all else."""

    files: list[Path]
    folders: list[Path]
    other: list[Path]


def read_file(source: Source, request: Request) -> Listing | None:
    """TAO's YAML page: the folders that it names, or else those beside it, and its label_map."""
    if not source.name.endswith((".yaml", ".yml")):
        return None
    folders = _dataset_folders(parse_yaml(source.path, source.text))
    if not folders:
        return read_root(source.path.parent, request)
    notes: list[str] = []
    parts = _read_parts(folders, notes)
    if not parts:
        raise ConfigError(
            f"the folders that {source.path} names hold no class folders",
            found=", ".join(map(str, folders.values())),
            fix="correct train_dataset_dir and val_dataset_dir, or give the folder of train/ and val/ itself",
        )
    part = take_part(parts, request.part, source.path, notes)
    return _listing(parts, part, source.path.parent, source.path, notes)


def read_root(root: Path, request: Request) -> Listing | None:
    """The part's folder, or for `test` and for a folder that is itself called train or val all classes in it.

    Raises:
        ConfigError: there are class folders and no parts, or not the one asked for.
    """
    notes: list[str] = []
    inside = {part: path for path in sub_folders(root) if (part := part_of_folder(path.name))}
    parts = _read_parts(inside, notes)
    if parts:
        part = take_part(parts, request.part, root, notes)
    else:
        part, parts = request.part, _read_parts({request.part: root}, notes)
        if not parts:
            return None
        _check_unsplit(root, request, notes)
    pages = [root / name for name in folder_names(root) if name.lower().endswith((".yaml", ".yml"))]
    page = next((page for page in pages if "label_map" in page.read_text(encoding="utf-8", errors="replace")), None)
    return _listing(parts, part, root, page, notes)


def _check_unsplit(root: Path, request: Request, notes: list[str]) -> None:
    own = part_of_folder(root.resolve().name)
    if own:
        if own != request.part:
            notes.append(f"{root} is called {own}, and all of it is taken as the {request.part} part")
    elif request.part == "test":
        notes.append(f"{root} has no parts: all of it is taken as the test part")
    else:
        raise ConfigError(
            f"{root} holds class folders, and nothing says which videos are the {request.part} part",
            found=", ".join(path.name for path in sub_folders(root)[:5]),
            fix="move the class folders into train/ and val/, or write train.csv and val.csv with `video label` lines",
        )


def _listing(parts: dict[str, Classes], part: str, root: Path, page: Path | None, notes: list[str]) -> Listing:
    """Classes count over all parts, so that they are the same for each."""
    found = in_order({label for classes in parts.values() for label in classes})
    rows = [Row((_below(path, root),), label) for label, paths in sorted(parts[part].items()) for path in paths]
    for other, classes in parts.items():
        if absent := sorted(set(classes) - set(parts[part])):
            notes.append(f"the {part} part has no video of {', '.join(absent[:5])}, the {other} part has")
    if not page and not any(row.paths[0].endswith("rgb") for row in rows):
        return Listing(rows, "folders", fallback=found, folder=root, notes=notes)
    names = read_labels(page) if page else None
    if names and (unknown := [label for label in found if label not in names]):
        raise ConfigError(
            f"the label_map of {page} lacks a class",
            found=f"folders {', '.join(unknown[:5])}",
            fix="add it, or move the folder away",
        )
    return Listing(rows, "tao", names, fallback=found, folder=root, notes=notes)


def _read_parts(folders: Mapping[str, Path], notes: list[str]) -> dict[str, Classes]:
    """Clips by part and class: video files, or pictures where fewer of the class folders hold files than pictures.

    Never both: pictures beside videos are previews of them. What is passed over is said.
    """
    found = {part: {place.name: _look(place) for place in sub_folders(path)} for part, path in folders.items()}
    places = [place for classes in found.values() for place in classes.values()]
    of_files = 2 * sum(bool(place.files) for place in places) >= sum(
        bool(place.files or place.folders) for place in places
    )
    parts: dict[str, Classes] = {}
    passed: list[Path] = []
    for part, classes in found.items():
        for name, place in classes.items():
            clips, rest = (place.files, place.folders) if of_files else (place.folders, place.files)
            passed += [*rest, *place.other]
            if clips:
                parts.setdefault(part, {})[name] = sorted(clips)
    if parts and passed:
        kind = "video files" if of_files else "folders of pictures"
        notes.append(f"the clips are {kind}: {len(passed)} others are passed over, {min(passed)} for example")
    return parts


def _look(folder: Path, depth: int = DEPTH) -> Found:
    """What lies below a folder; a clip's own pictures, and those of TAO's in rgb/, make it one and are not listed."""
    found = Found([], [], [])
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name[0] != ".")
    except OSError:
        return found
    for name, is_folder in visible:
        path = folder / name
        if not is_folder:
            (found.files if name.lower().endswith((*VIDEO, ".npy")) else found.other).append(path)
        elif clip := next((place for place in (path / "rgb", path) if holds_pictures(place)), None):
            found.folders.append(clip)
        elif depth == 0:
            found.other.append(path)
        else:
            for kind, more in zip(found, _look(path, depth - 1), strict=True):
                kind += more
    return found


def _below(path: Path, root: Path) -> str:
    """A path as a list in the root would say it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path.absolute())


def _dataset_folders(content: Any) -> dict[str, Path]:
    """train_dataset_dir and the like, wherever a page has them."""
    found: dict[str, Path] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            found = _dataset_folders(value) | found
        elif value and str(name).endswith("_dataset_dir") and (part := part_of(str(name).split("_")[0])):
            found[part] = Path(str(value))
    return found
