"""The frozen prefix in memory: what lies below the first prompted block is computed once for each view of each clip.

Shapes: V views, M clips, N tokens, C width, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from apt_edge.errors import ConfigError
from apt_edge.methods.tuned import TunedModel
from train.data import Clips, batches, epoch_order, load

FORWARD_BATCH = 32


def prefix_bytes(model: TunedModel, clips: int, views: int) -> int:
    """Bytes of the prefixes of `views` views of `clips` clips in float32."""
    config = model.vit.config
    tokens = config.tokens if model.method.blocks else 1  # without prompts only the mean is kept
    return 4 * clips * views * tokens * config.width


def check_budget(model: TunedModel, train_clips: int, views: int, val_clips: int, max_gb: float) -> None:
    """Raises ConfigError with the estimate when the prefixes would not fit."""
    gigabytes = (prefix_bytes(model, train_clips, views) + prefix_bytes(model, val_clips, 1)) / 1e9
    if gigabytes > max_gb:
        raise ConfigError(
            f"{views} views of {train_clips} clips would take {gigabytes:.2f} GB of memory, cache.max_gb is {max_gb:g}",
            fix="raise cache.max_gb, lower augment.views, or set augment.views = 0 to keep nothing",
        )


def compute_prefixes(model: TunedModel, clips: Clips, views: int, workers: int, name: str) -> Tensor:
    """Prefixes of draws 0 to `views - 1` of every clip: float32 `[M, V, N, C]` in main memory.

    Raises:
        VideoError: a clip cannot be read.
    """
    keys = [(index, tuple(range(views))) for index in range(len(clips))]
    loader = load(clips, keys, max(1, FORWARD_BATCH // views), workers)
    device = next(model.parameters()).device
    model.eval()
    tokens_MVNC: Tensor | None = None
    done = 0
    with torch.no_grad(), tqdm(total=len(keys), desc=f"frozen prefix, {name}", unit="clip", disable=None) as bar:
        for sample in batches(loader):
            count = len(sample.label)
            prefix_KNC = model.prefix(sample.views.flatten(0, 1).to(device)).float().cpu()
            if tokens_MVNC is None:
                tokens_MVNC = torch.empty(len(keys), views, *prefix_KNC.shape[1:])
            tokens_MVNC[done : done + count] = prefix_KNC.unflatten(0, (count, views))
            done += count
            bar.update(count)
    assert tokens_MVNC is not None  # a list is never empty
    return tokens_MVNC


class CachedViews:
    """Batches of kept prefixes; each epoch draws one view of every clip.

    Args:
        tokens_MVNC: from `compute_prefixes`.
        labels_M: classes.
        batch: clips a step.
        shuffle_seed: seed of the order and the views in each epoch; None keeps the order and takes view 0.
    """

    def __init__(self, tokens_MVNC: Tensor, labels_M: Tensor, batch: int, shuffle_seed: int | None) -> None:
        self.tokens_MVNC, self.labels_M = tokens_MVNC, labels_M
        self.batch, self.shuffle_seed = batch, shuffle_seed
        self.size = len(labels_M)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Prefixes `[B, N, C]` and classes `[B]`."""
        order, view = np.arange(self.size), np.zeros(self.size, dtype=np.int64)
        if self.shuffle_seed is not None:
            views = self.tokens_MVNC.shape[1]
            order = epoch_order(self.size, self.shuffle_seed, epoch)
            view = np.random.default_rng([self.shuffle_seed, epoch, 1]).integers(views, size=self.size)
        for start in range(0, self.size, self.batch):
            clip = torch.from_numpy(order[start : start + self.batch])
            yield self.tokens_MVNC[clip, torch.from_numpy(view)[clip]], self.labels_M[clip]

    def logits(self, model: TunedModel, tokens_BNC: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        return model(tokens_BNC, from_prefix=True)
