"""Motion soup as an endless stream of training batches, made by worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from train.synthetic.motion import Symmetry, make_clip


class SoupStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches: frames uint8 `[B, 8, 48, 48, 3]`, targets `[B, N, C]`, a function of the seed alone.

    Rendering is a large part of the cost, so every batch is used `repeats` times, each time under another symmetry.
    """

    def __init__(self, seed: int, batch: int, repeats: int, start: int) -> None:
        self.seed, self.batch, self.repeats, self.start = seed, batch, repeats, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        block = self.start // self.repeats + worker
        while True:
            clips = [make_clip(self.seed, block * self.batch + index) for index in range(self.batch)]
            frames, targets = (np.stack(part) for part in zip(*clips, strict=True))
            choices = np.random.default_rng([self.seed, block]).permutation(16)
            for choice in choices[: self.repeats]:
                bits = [bool(choice >> bit & 1) for bit in range(4)]
                seen, target = Symmetry(*bits).apply(frames, targets)
                yield torch.from_numpy(seen), torch.from_numpy(target).flatten(1, 3)
            block += workers
