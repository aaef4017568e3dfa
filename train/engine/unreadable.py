"""Clips that cannot be read are never replaced: they are left out of a step, said once and listed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object
from tqdm import tqdm

from apt_edge.errors import VideoError
from apt_edge.video.lists import Item
from train.engine.data import Sample

SAID = 10  # of a part, in words; the others are counted


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
                tqdm.write(f"unreadable, left out: {reason}", file=sys.stderr)
            elif self.speaks and len(self.reasons) == SAID + 1:
                tqdm.write(f"more {self.part} videos are unreadable; all are listed at the end", file=sys.stderr)

    def share(self) -> None:
        """Learn what the other processes found; all of them call this together."""
        for found in gather_object([self.reasons]):
            self.add(found)

    def rows(self) -> list[dict[str, Any]]:
        """`path` and `reason` of each, in the order of the list."""
        return [{"path": str(self.items[place].path), "reason": self.reasons[place]} for place in sorted(self.reasons)]

    def nothing_left(self, what: str) -> VideoError:
        """The error when nothing of `what` could be read."""
        first = next(iter(self.reasons.values()), "")
        return VideoError(
            f"no clip of {what} can be read",
            found=first,
            fix="set data.root to the folder that the paths of the list start at, and look at the files with "
            "python -m train.clips check",
        )
