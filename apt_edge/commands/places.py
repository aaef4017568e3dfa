"""Places that a command may not write to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def taken(place: Path, model: Path, read: Iterable[Path]) -> str:
    """What stands at a place that a file written there would destroy, in words; empty when it is free.

    Args:
        place: of the file to write.
        model: directory of the model, nothing in which is written.
        read: files that the command reads.
    """
    if place.is_dir():
        return "a directory"
    if place.resolve().is_relative_to(model.resolve()):
        return "a file of the model's directory"
    if place.exists() and any(path.exists() and path.samefile(place) for path in read):
        return "one of the files to be read"
    return ""
