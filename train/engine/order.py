"""Which clips a step sees: a function of (seed, epoch) alone, the same for every method and for a resumed run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

FORWARD_BATCH = 32  # clips at once where nothing is trained
Key = tuple[int, tuple[int, ...]]  # (clip, draws): a draw is a kept view, or counts the fresh ones


class Order(Sampler[list[Key]]):
    """Batches of keys of one epoch; shuffled for training, in the order of the list for validation.

    Args:
        clips: length of the list.
        batch: clips a batch, over all processes.
        seed: of the order and the draws; None keeps the list's order, takes draw 0 and keeps the last short batch.
        views: kept views of each clip, of which an epoch draws some; 0 draws afresh every time.
        samples: draws of each clip in its batch (repeated augmentation).
        accumulate: batches a step; an epoch has whole steps only.

    Attributes:
        epoch: the epoch to draw.
        first_step: how many of its steps are skipped: those that an interrupted run has behind it.
    """

    def __init__(
        self, clips: int, batch: int, seed: int | None, views: int = 0, samples: int = 1, accumulate: int = 1
    ) -> None:
        self.clips, self.seed, self.views, self.samples, self.accumulate = clips, seed, views, samples, accumulate
        self.batch_size, self.drop_last = batch, seed is not None  # accelerate asks for these two
        self.epoch = self.first_step = 0

    @property
    def steps(self) -> int:
        """Whole steps of an epoch."""
        return self.clips // (self.batch_size * self.accumulate)

    def __len__(self) -> int:
        return self.steps * self.accumulate if self.drop_last else -(-self.clips // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        keys = self._keys()
        for number in range(self.first_step * self.accumulate, len(self)):
            yield keys[number * self.batch_size : (number + 1) * self.batch_size]

    def _keys(self) -> list[Key]:
        if self.seed is None:
            return [(clip, (0,)) for clip in range(self.clips)]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips).tolist()
        if not self.views:
            draws = tuple(range(self.epoch * self.samples, (self.epoch + 1) * self.samples))
            return [(clip, draws) for clip in order]
        rng = np.random.default_rng([self.seed, self.epoch, 1])
        drawn = rng.permuted(np.tile(np.arange(self.views), (self.clips, 1)), axis=1)[:, : self.samples]
        return [(clip, tuple(drawn[clip].tolist())) for clip in order]
