"""Clips from video files: sampling, augmentation and loading, every random draw fixed by (seed, draw, clip).

Shapes: B batch, V views, C colour (3), T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from apt_edge.clip import ClipSpec
from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.video.lists import Item, read_list
from apt_edge.video.load import load_clip
from train.engine.augment import augmented_views
from train.engine.order import Key
from train.recipe import Augment


class Sample(NamedTuple):
    """Views of a clip, float32 `[V, C, T, H, W]`, its class and its place in the list; a batch has one more axis."""

    views: Tensor
    label: Tensor
    place: Tensor


class Clips(Dataset[Sample | AptEdgeError]):
    """The clips of a list, indexed by `(clip, draws)`: one view for each draw.

    Args:
        items: videos and classes.
        spec: the input contract.
        augment: None gives the deterministic clip of evaluation, whatever the draw.
        seed: with the draw and the clip's place it decides frames, crop, brightness and flip.
    """

    def __init__(self, items: Sequence[Item], spec: ClipSpec, augment: Augment | None = None, seed: int = 0) -> None:
        self.items, self.spec, self.augment, self.seed = list(items), spec, augment, seed

    @property
    def labels(self) -> Tensor:
        """int64 `[clips]`."""
        return torch.tensor([item.label for item in self.items])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample | AptEdgeError:
        """A file that cannot be read gives the error as a value: raised in a worker, it would drown in a traceback."""
        index, draws = key
        item = self.items[index]
        try:
            if self.augment is None:
                views = [load_clip(item.path, self.spec)] * len(draws)
            else:
                rngs = [np.random.default_rng([self.seed, draw, index]) for draw in draws]
                views = augmented_views(item.path, self.spec, self.augment, rngs)
        except AptEdgeError as error:
            return error
        return Sample(torch.from_numpy(np.stack(views)), torch.tensor(item.label), torch.tensor(index))


def read_items(path: str | Path, labels: Sequence[str]) -> list[Item]:
    """Read a list and check its classes against the names; raises ConfigError."""
    items = read_list(path).items
    highest = max(items, key=lambda item: item.label)
    if highest.label >= len(labels):
        raise ConfigError(
            f"{path} uses class {highest.label} ({highest.path.name}), and there are {len(labels)} class names",
            fix="classes count from 0: correct the list or the label file",
        )
    return items


def load(clips: Dataset[Any], keys: Iterable[list[Key]], workers: int = 0) -> DataLoader[Sample | AptEdgeError]:
    """A loader of the batches that `keys` lists; `workers` processes decode ahead, 0 decodes in this one."""
    return DataLoader(
        clips,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )


def batches(loader: Iterable[Sample | AptEdgeError]) -> Iterator[Sample]:
    """The loader's batches; raises the VideoError of a file that could not be read."""
    for batch in loader:
        if isinstance(batch, AptEdgeError):
            raise batch
        yield batch


def shuffle_frames(clip_BCTHW: Tensor, place_B: Tensor) -> Tensor:
    """Each clip's frames in a random order that depends on the clip's place in the list alone.

    What a model keeps of its accuracy on these clips, it owes to single frames rather than to their order.
    """
    frames = clip_BCTHW.shape[2]
    orders = [np.random.default_rng([SHUFFLE_SEED, place]).permutation(frames) for place in place_B.tolist()]
    return torch.stack([clip[:, torch.from_numpy(order)] for clip, order in zip(clip_BCTHW, orders, strict=True)])


SHUFFLE_SEED = 20240311  # the same for every run: shuffled accuracies can be compared


def _collate(samples: list[Sample | AptEdgeError]) -> Sample | AptEdgeError:
    errors = [sample for sample in samples if isinstance(sample, AptEdgeError)]
    return errors[0] if errors else default_collate(samples)
