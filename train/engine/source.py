"""Where batches come from: fresh clips through the whole model, or kept prefixes; the order is the same for both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from apt_edge.errors import ConfigError
from apt_edge.methods.tuned import TunedModel
from train.engine.cache import CachedClips, cached, check_budget
from train.engine.data import Clips, Sample, load
from train.engine.order import FORWARD_BATCH, Order
from train.engine.unreadable import Unreadable
from train.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """Batches of one process.

    Attributes:
        loader: gives `Sample`s on the right device; `order` says of which epoch.
        from_prefix: the inputs are prefixes, not clips.
        one_row: of the kind that the head alone reads.
        unreadable: the clips that could not be read so far.
    """

    loader: DataLoader[Sample]
    order: Order
    from_prefix: bool
    one_row: bool
    unreadable: Unreadable

    def batches(self) -> Iterator[Sample]:
        """One epoch of this process; unreadable clips are noted on the way."""
        for sample in self.loader:
            self.unreadable.note(sample)
            yield sample


def make_sources(
    model: TunedModel, recipe: Recipe, train: Clips, val: Clips, accelerator: Accelerator, workers: int
) -> tuple[Source, Source]:
    """Training and validation batches, from kept prefixes when the recipe has views and uses the cache.

    Raises:
        ConfigError: the batch cannot be divided among the processes or is larger than the list; the cache is too small.
        VideoError: nothing can be read of what is to be kept.
    """
    optim, augment, cache = recipe.optim, recipe.augment, recipe.cache
    part = optim.batch // optim.accumulate
    if part % accelerator.num_processes:
        raise ConfigError(
            f"{accelerator.num_processes} processes cannot share {part} videos (optim.batch / optim.accumulate)",
            fix="choose a batch that is a multiple of both",
        )
    order = Order(len(train), part, recipe.seed, augment.views, augment.num_sample, optim.accumulate)
    if not order.steps:
        raise ConfigError(
            f"{len(train)} training clips do not fill one batch of {optim.batch}", fix="lower optim.batch"
        )
    val_order = Order(len(val), FORWARD_BATCH, None)
    bad_train = Unreadable(train.items, "training", accelerator.is_main_process)
    bad_val = Unreadable(val.items, "validation", accelerator.is_main_process)
    if not (augment.views and cache.use):
        return (
            _source(model, train, order, accelerator, workers, bad_train),
            _source(model, val, val_order, accelerator, workers, bad_val),
        )
    check_budget(model, len(train), augment.views, len(val), cache)
    kept_val = cached(model, val, 1, cache, accelerator, workers, bad_val)
    kept = cached(model, train, augment.views, cache, accelerator, workers, bad_train)
    return (
        _source(model, kept, order, accelerator, 0, bad_train),
        _source(model, kept_val, val_order, accelerator, 0, bad_val),
    )


def _source(
    model: TunedModel,
    clips: Clips | CachedClips,
    order: Order,
    accelerator: Accelerator,
    workers: int,
    unreadable: Unreadable,
) -> Source:
    loader = prepare_data_loader(
        load(clips, order, workers),
        accelerator.device,
        accelerator.num_processes,
        accelerator.process_index,
        split_batches=order.drop_last,  # training: each process has its part of every batch
        even_batches=False,
        put_on_device=True,
        dispatch_batches=False,
    )
    kept = isinstance(clips, CachedClips)
    return Source(loader, order, kept, kept and model.prefix_shape()[0] == 1, unreadable)
