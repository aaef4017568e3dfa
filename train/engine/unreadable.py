"""Clips that cannot be read are never replaced: they are left out of a step, said once and listed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from apt_edge.errors import VideoError
from apt_edge.files import as_text
from apt_edge.video.lists import Item
from train.engine.data import Sample

SAID = 10  # of a part, in words; the others are counted
LOOKED_FOR = 200  # files of a list, spread over it, before all of them
FIX = (
    "set data.root to the folder that the paths of the list start at, and look at the files with "
    "python -m train.clips check"
)


class Unreadable:
    """The unreadable clips of one part of the data.

    Args:
        items: the part's list.
        part: its name.
        speaks: whether this process tells people.

    Attributes:
        reasons: why, by place in the list.
    """

    def __init__(self, items: Sequence[Item], part: str, speaks: bool = True) -> None:
        self.items, self.part, self.speaks = items, part, speaks
        self.reasons: dict[int, str] = {}

    def note(self, sample: Sample) -> None:
        """Keep what a batch says, and say on stderr what is new."""
        if any(sample.reason):
            self.add(dict(zip(sample.place.tolist(), sample.reason, strict=True)))

    def add(self, reasons: dict[int, str]) -> None:
        """Keep reasons by place, and say what is new; an empty one says that the clip could be read."""
        for place, reason in reasons.items():
            if not reason or place in self.reasons:
                continue
            self.reasons[place] = reason
            if self.speaks and len(self.reasons) <= SAID:
                tqdm.write(f"unreadable, left out: {self._path(place)}: {reason}", file=sys.stderr)
            elif self.speaks and len(self.reasons) == SAID + 1:
                tqdm.write(f"more {self.part} videos are unreadable; all are listed at the end", file=sys.stderr)

    def share(self) -> None:
        """Learn what the other processes found; all of them call this together."""
        for found in gather_object([self.reasons]):
            self.add(found)

    def rows(self) -> list[dict[str, Any]]:
        """`path` and `reason` of each, in the order of the list."""
        return [{"path": self._path(place), "reason": self.reasons[place]} for place in sorted(self.reasons)]

    def nothing_left(self, what: str) -> VideoError:
        """The error when nothing of `what` could be read."""
        first = next((f"{self._path(place)}: {reason}" for place, reason in self.reasons.items()), "")
        return VideoError(f"no clip of {what} can be read", found=first, fix=FIX)

    def _path(self, place: int) -> str:
        return as_text(self.items[place].path)


def require_files(parts: Mapping[str, Sequence[Item]], accelerator: Accelerator) -> None:
    """Tell a wrong root before anything slow begins: the first process looks, and all of them raise.

    Args:
        parts: lists, by the name of their part.
        accelerator: knows the processes, which all call this together.

    Raises:
        VideoError: not one file of a list is there.
    """
    absent: list[str | None] = [None]
    if accelerator.is_main_process:
        absent = [next((part for part, items in parts.items() if not _any_exists(items)), None)]
    (part,) = broadcast_object_list(absent)
    if part is not None:
        items = parts[part]
        raise VideoError(f"none of the {len(items)} {part} videos is there", found=as_text(items[0].path), fix=FIX)


def _any_exists(items: Sequence[Item]) -> bool:
    spread = items[:: -(-len(items) // LOOKED_FOR)]
    return any(os.path.exists(item.path) for item in chain(spread, items))
