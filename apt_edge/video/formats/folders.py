"""A folder of class folders, with or without train/ and val/ above them; TAO's, whose clips hold rgb/*.png."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError
from apt_edge.video.formats.rows import (
    IMAGE,
    VIDEO,
    Listing,
    Request,
    Row,
    Source,
    folder_names,
    part_of,
    part_of_folder,
    sub_folders,
    take_part,
)
from apt_edge.video.labels import parse_yaml, read_labels

NAMES = ("folders", "tao")

Classes = dict[str, list[Path]]  # paths of its clips by class


def read_file(source: Source, request: Request) -> Listing | None:
    """TAO's YAML page: the folders that it names, or else those beside it, and its label_map."""
    if not source.name.endswith((".yaml", ".yml")):
        return None
    folders = _dataset_folders(parse_yaml(source.path, source.text))
    if not folders:
        return read_root(source.path.parent, request)
    parts = {part: classes for part, path in folders.items() if (classes := _read_classes(path))}
    if not parts:
        raise ConfigError(
            f"the folders that {source.path} names hold no class folders",
            found=", ".join(map(str, folders.values())),
            fix="correct train_dataset_dir and val_dataset_dir, or give the folder of train/ and val/ itself",
        )
    notes: list[str] = []
    part = take_part(parts, request.part, source.path, notes)
    return _listing(parts, part, source.path.parent, source.path, notes)


def read_root(root: Path, request: Request) -> Listing | None:
    """The part's folder, or for `test` and for a folder that is itself called train or val all classes in it.

    Raises:
        ConfigError: there are class folders and no parts, or not the one asked for.
    """
    notes: list[str] = []
    inside = {part: path for path in sub_folders(root) if (part := part_of_folder(path.name))}
    parts = {part: classes for part, path in inside.items() if (classes := _read_classes(path))}
    if parts:
        part = take_part(parts, request.part, root, notes)
    else:
        part, parts = request.part, {request.part: _read_classes(root)}
        if not parts[part]:
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
    found = sorted({label for classes in parts.values() for label in classes})
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


def _read_classes(folder: Path) -> Classes:
    """Clips of every class folder that has any: files, folders of pictures, or their rgb/ as TAO has them."""
    classes: Classes = {}
    for place in sub_folders(folder):
        names = folder_names(place)
        clips = [place / name for name in names if name.lower().endswith((*VIDEO, ".npy"))]
        inner = sub_folders(place) if len(clips) < len(names) else []
        if inner and (inner[0] / "rgb").is_dir():
            inner = [clip / "rgb" for clip in inner]
        if inner and _holds_pictures(inner[0]):
            clips += inner
        if clips:
            classes[place.name] = sorted(clips)
    return classes


def _below(path: Path, root: Path) -> str:
    """A path as a list in the root would say it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path.absolute())


def _holds_pictures(folder: Path) -> bool:
    return any(name.lower().endswith(IMAGE) for name in folder_names(folder))


def _dataset_folders(content: Any) -> dict[str, Path]:
    """train_dataset_dir and the like, wherever a page has them."""
    found: dict[str, Path] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            found = _dataset_folders(value) | found
        elif value and str(name).endswith("_dataset_dir") and (part := part_of(str(name).split("_")[0])):
            found[part] = Path(str(value))
    return found
