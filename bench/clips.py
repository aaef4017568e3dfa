"""The clips of a benchmark: real video files, as each contender takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.video.load import load_frames
from bench.modules import SEED
from bench.suite import Suite
from export.to_onnx import chosen
from train.clips import make_clips
from train.synthetic.actions import LABELS


@dataclass(frozen=True)
class Videos:
    """The files that a run goes through, and what a row says of them."""

    paths: list[Path]
    source: str

    def frames(self, clip: ClipSpec) -> np.ndarray:
        """All of them as a model sees them: uint8 `[M, T, S, S, 3]`."""
        return np.stack([load_frames(path, clip) for path in self.paths])


def videos_of(suite: Suite, root: Path) -> Videos:
    """The suite's list, spread evenly; without one synthetic clips, made once in `root`."""
    if suite.clips:
        path, source = Path(suite.clips), suite.clips
    else:
        folder = root / f"clips-{SEED}"
        make_clips(folder, SEED, train=len(LABELS), val=len(LABELS), workers=1)
        path, source = folder / "val.csv", f"synthetic videos of train.clips, seed {SEED}"
    return Videos([item.path for item in chosen(path, suite.clip_count)], source)


def batches(frames_MTSSC: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """All clips in batches `[size, T, S, S, 3]`; the last one is filled up from the beginning."""
    count = len(frames_MTSSC)
    for start in range(0, count, size):
        yield frames_MTSSC[np.arange(start, start + size) % count]
