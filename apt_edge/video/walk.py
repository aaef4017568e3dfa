"""The videos that lie in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from apt_edge.errors import VideoError
from apt_edge.video.formats.rows import VIDEO, folder_names, holds_pictures


def videos_in(folder: str | Path) -> list[Path]:
    """Every video in a folder and below it, in the order of their names.

    Videos are files with an extension of videos, `.npy` files, and folders of pictures without videos beside them.
    Hidden files and folders are left out, and folders behind links are not entered.

    Raises:
        VideoError: there is none.
    """
    found: list[Path] = []
    for place, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in folder_names(Path(place)) if name.lower().endswith((*VIDEO, ".npy"))]
        files = [path for path in (Path(place, name) for name in names) if not path.is_dir()]
        found += files or ([Path(place)] if holds_pictures(place) else [])
    if not found:
        raise VideoError(
            f"{folder} holds no video",
            found=", ".join(folder_names(Path(folder))[:5]) or "an empty folder",
            fix=f"give a folder of {', '.join(VIDEO[:4])} and the like, or of pictures",
        )
    return found
