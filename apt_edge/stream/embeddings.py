"""A window's logits, with the patch embeddings of tubelets that earlier windows had.

A tubelet's embedding depends on its frames alone, and a runtime that can embed one tubelet gives the same bits as when
it embeds all: what is reused is exactly what would be computed.

Shapes: t frames of a tubelet, T of a clip, S size, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from apt_edge.stream.ring import Window
from apt_edge.stream.windows import tubelets


class Runner(Protocol):
    """What runs a model's tasks: `apt_edge.runtime.runner.TaskRunner`."""

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """Labels of each task."""
        ...

    @property
    def tubelet(self) -> int | None:
        """Frames that are embedded together; None: the model cannot embed them alone."""
        ...

    def logits(self, frames_TSSC: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits [K] of each task."""
        ...

    def embed(self, frames_tSSC: np.ndarray) -> np.ndarray:
        """Patches of one tubelet."""
        ...

    def logits_of(self, patches: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        """Logits [K] of each task, of the patches of all tubelets of a clip."""
        ...


class Embeddings:
    """Runs windows in their order.

    Attributes:
        reused, total: tubelets so far.
    """

    def __init__(self, runner: Runner, hop: int) -> None:
        self._runner, self._hop = runner, hop
        self._known: dict[tuple[int, ...], np.ndarray] = {}
        self.reused = self.total = 0

    def logits(self, window: Window) -> Mapping[str, np.ndarray]:
        """Logits [K] of each task."""
        if self._runner.tubelet is None:
            return self._runner.logits(np.stack(window.pictures))
        pictures = dict(zip(window.numbers, window.pictures, strict=True))
        keys = tubelets(window.numbers, self._runner.tubelet)
        for key in keys:
            self.total += 1
            if key in self._known:
                self.reused += 1
            else:
                self._known[key] = self._runner.embed(np.stack([pictures[number] for number in key]))
        logits = self._runner.logits_of([self._known[key] for key in keys])
        later = window.numbers[0] + self._hop  # no later window begins before this frame
        self._known = {key: patches for key, patches in self._known.items() if key[0] >= later}
        return logits

    def __len__(self) -> int:
        return len(self._known)
