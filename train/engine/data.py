"""Clips from video files: sampling, augmentation and loading, every random draw fixed by (seed, draw, clip).

Shapes: B batch, V views, C colour (3), T frames, H height, W width.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from apt_edge.clip import ClipSpec
from apt_edge.errors import AptEdgeError, ConfigError, reason_of
from apt_edge.files import as_text
from apt_edge.video.lists import Item, VideoList, match_labels, read_list
from apt_edge.video.load import load_clip
from train.engine.augment import augmented_views
from train.engine.order import Key, Order
from train.recipe import Augment, Data


class Sample(NamedTuple):
    """Views of a clip; in a batch every field has one more axis.

    Attributes:
        views: float32 `[V, C, T, H, W]`; zeros when the clip cannot be read.
        labels: int64 `[V]`, the class of each view: a flip may change it.
        place: of the clip in its list.
        readable: whether the views are the clip's.
        reason: why it cannot be read, for people; empty when it can, or when that has been said before.
    """

    views: Tensor
    labels: Tensor
    place: Tensor
    readable: Tensor
    reason: str | list[str]


class Clips(Dataset[Sample]):
    """The clips of a list, indexed by `(clip, draws)`: one view for each draw.

    Args:
        items: videos and classes.
        spec: the input contract.
        augment: None gives the deterministic clip of evaluation, whatever the draw.
        seed: with the draw and the clip's place it decides frames, crop, brightness and flip.
        decoder: of video files.
        mirror: what each class becomes when it is flipped, from `train.engine.mirror`; empty where no view is flipped.
    """

    def __init__(
        self,
        items: Sequence[Item],
        spec: ClipSpec,
        augment: Augment | None = None,
        seed: int = 0,
        decoder: str = "pyav",
        mirror: Sequence[int | None] = (),
    ) -> None:
        self.items, self.spec, self.augment, self.seed = list(items), spec, augment, seed
        self.decoder, self.mirror = decoder, mirror

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample:
        """A file that cannot be read is told as text: raised in a worker, the error would drown in a traceback."""
        index, draws = key
        labels, place = self.labels(key), torch.tensor(index)
        try:
            views = torch.from_numpy(np.stack(self._views(key)))
        except (AptEdgeError, OSError) as error:
            nothing = torch.zeros(len(draws), *self.spec.shape)
            return Sample(nothing, labels, place, torch.tensor(False), reason_of(error, self.items[index].path))
        return Sample(views, labels, place, torch.tensor(True), "")

    def labels(self, key: Key) -> Tensor:
        """The classes of a clip's draws, int64 `[V]`, without decoding it."""
        index, draws = key
        label = self.items[index].label
        assert label is not None  # `read_items` refuses such lists
        image = self.mirror[label] if self.mirror else label
        return torch.tensor([image if self._flipped(index, draw) else label for draw in draws])

    def flips(self, index: int) -> bool:
        """Whether some draws of a clip are flipped: a clip whose mirror image belongs to no class never is."""
        label = self.items[index].label
        has_image = not self.mirror or (label is not None and self.mirror[label] is not None)
        return has_image and self.augment is not None and self.augment.hflip

    def _flipped(self, index: int, draw: int) -> bool:
        # A generator of its own: the class of a draw is known before anything is decoded.
        return self.flips(index) and bool(np.random.default_rng([self.seed, draw, index, 1]).random() < 0.5)

    def _views(self, key: Key) -> list[np.ndarray]:
        index, draws = key
        if self.augment is None:
            return [load_clip(self.items[index], self.spec, self.decoder)] * len(draws)
        rngs = [np.random.default_rng([self.seed, draw, index]) for draw in draws]
        flips = [self._flipped(index, draw) for draw in draws]
        return augmented_views(self.items[index], self.spec, self.augment, rngs, flips, self.decoder)


def read_items(data: Data, part: Literal["train", "val"], names: Sequence[str] | None = None) -> VideoList:
    """The videos of a part, each with a class.

    Args:
        data: where they are, as a recipe says it.
        part: which of the two.
        names: classes that the videos' are matched with by name, such as those of the other part; None keeps their own.

    Raises:
        ConfigError: the list cannot be read, a video has no class, or the classes are not those of `names`.
    """
    path = data.train if part == "train" else data.val
    videos = read_list(path, part, format=data.format, split=data.split, labels=data.labels, root=data.root)
    if names is not None:
        videos = match_labels(videos, names)
    fix = "training and validation need classes: write `video class` lines, or give a folder of class folders"
    require_classes(path, videos.items, fix)
    return videos


def require_classes(path: str, items: Sequence[Item], fix: str) -> None:
    """Raises ConfigError with this `fix` when the list at `path` does not say the class of every video."""
    if unlabelled := [item for item in items if item.label is None]:
        raise ConfigError(
            f"{path} does not say the class of {len(unlabelled)} of its {len(items)} videos",
            found=str(unlabelled[0].path),
            fix=fix,
        )


def leak(data: Data, train: Sequence[Item], val: Sequence[Item]) -> str:
    """A message when validation videos are trained on too, else an empty one.

    Raises:
        ConfigError: both parts are the same videos.
    """
    both = _shared(train, val)
    if not both:
        return ""
    if len(both) == len(val) and len(_shared(val, train)) == len(train):
        raise ConfigError(
            f"training and validation are the same {len(val)} videos",
            found=f"data.train = {data.train}, data.val = {data.val}",
            fix="give each a list of its own, or the root folder of a data set that holds both parts",
        )
    return (
        f"{len(both)} of {len(val)} validation videos are trained on too, such as {as_text(both[0].path)}\n"
        "  the accuracy will be too good: give lists that share no video"
    )


def _shared(items: Sequence[Item], others: Sequence[Item]) -> list[Item]:
    """Those of `others` that are among `items`: the same file, in segments that overlap."""
    segments: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        segments.setdefault(os.path.abspath(item.path), []).append(_times(item))
    found = []
    for item in others:
        start, end = _times(item)
        if any(start < to and since < end for since, to in segments.get(os.path.abspath(item.path), ())):
            found.append(item)
    return found


def _times(item: Item) -> tuple[float, float]:
    return item.start or 0.0, math.inf if item.end is None else item.end


def load(clips: Dataset[Any], keys: Order | list[list[Key]], workers: int = 0) -> DataLoader[Sample]:
    """A loader of the batches that `keys` lists; `workers` processes decode ahead, 0 decodes in this one.

    A worker makes whole batches: there are no more of them than batches, and none for a single one.
    """
    workers = min(workers, len(keys)) if len(keys) > 1 else 0
    return DataLoader(
        clips,
        batch_sampler=keys,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )


def shuffle_frames(clip_BCTHW: Tensor, place_B: Tensor) -> Tensor:
    """Each clip's frames in a random order that depends on the clip's place in the list alone.

    What a model keeps of its accuracy on these clips, it owes to single frames rather than to their order.
    """
    frames = clip_BCTHW.shape[2]
    orders = [np.random.default_rng([SHUFFLE_SEED, place]).permutation(frames) for place in place_B.tolist()]
    return torch.stack([clip[:, torch.from_numpy(order)] for clip, order in zip(clip_BCTHW, orders, strict=True)])


SHUFFLE_SEED = 20240311  # the same for every run: shuffled accuracies can be compared
