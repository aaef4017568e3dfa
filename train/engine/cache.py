"""The frozen prefix on disk: what lies below the first changed block is computed once for each kept view of each clip.

An entry is a folder named by the hash of all that its numbers depend on. It grows in place and is resumed after an
interruption. Shapes: V views, M clips, N tokens, C width.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm import tqdm

from apt_edge.backbone import layers
from apt_edge.backbone import vit as vit_source
from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.files import write_json
from apt_edge.methods.tuned import TunedModel
from apt_edge.runtime.machine import versions
from apt_edge.video import decode, preprocess, sampling
from apt_edge.video import load as video_load
from apt_edge.video.decoders import decord, packets, pyav, stills
from train.engine import augment, data, randaug
from train.engine.data import Clips, Sample, load
from train.engine.order import FORWARD_BATCH, Key
from train.engine.unreadable import Unreadable
from train.recipe import Cache

TOKENS, DONE, KEY = "prefix.bin", "done.bin", "key.json"
# Another version of these makes other numbers.
SOURCES = (
    *(vit_source, layers, decode, decord, packets, pyav, stills),
    *(preprocess, sampling, video_load, data, augment, randaug),
)
PACKAGES = ("torch", "av", "decord", "decord2", "numpy", "pillow")


class CachedClips(Dataset[Sample]):
    """Kept prefixes in the place of clips, indexed by `(clip, draws)` like `Clips`.

    Args:
        tokens_MV: `[M, V, *prefix]`, usually mapped from disk.
        readable_M: which clips there are prefixes of; why not has been said when they were computed.
        clips: that they are of; they know the classes of the draws.
    """

    def __init__(self, tokens_MV: np.ndarray, readable_M: np.ndarray, clips: Clips) -> None:
        self.tokens_MV, self.readable_M, self.clips = tokens_MV, torch.from_numpy(readable_M), clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Sample:
        clip, draws = key
        views = torch.from_numpy(self.tokens_MV[clip, list(draws)]).float()
        return Sample(views, self.clips.labels(key), torch.tensor(clip), self.readable_M[clip], "")


def check_budget(model: TunedModel, train_clips: int, views: int, val_clips: int, cache: Cache) -> None:
    """Raises ConfigError with the estimate when one run's prefixes would not fit into the budget."""
    gigabytes = (_bytes(model, train_clips, views, cache) + _bytes(model, val_clips, 1, cache)) / 1e9
    if gigabytes > cache.max_gb:
        raise ConfigError(
            f"{views} views of {train_clips} clips would take {gigabytes:.2f} GB, cache.max_gb is {cache.max_gb:g}",
            fix="raise cache.max_gb, set cache.dtype = float16, lower augment.views, or keep none: augment.views = 0",
        )


def cached(
    model: TunedModel,
    clips: Clips,
    views: int,
    cache: Cache,
    accelerator: Accelerator,
    workers: int,
    unreadable: Unreadable,
) -> CachedClips:
    """The prefixes of draws 0 to `views - 1` of every clip, from disk where they are there already.

    A clip that cannot be read, with one of its draws or at all, has none; the next run tries it again.

    Raises:
        VideoError: no clip can be read.
        AptEdgeError: the disk has no room; entries written before stay as they are.
    """
    key = _key(model, clips, views, cache, accelerator.mixed_precision)
    entry = Path(cache.folder) / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    shape = (len(clips), views, *model.prefix_shape())
    with _alone(entry, accelerator):
        if accelerator.is_main_process:
            _reserve(entry, len(clips), _bytes(model, len(clips), views, cache), cache)
            write_json(entry / KEY, key)
            os.utime(entry / TOKENS)  # its time says when the entry was last used
        accelerator.wait_for_everyone()
        tokens_MV = np.memmap(entry / TOKENS, cache.dtype, "r+", shape=shape)
        done_M = np.memmap(entry / DONE, np.uint8, "r+", shape=(len(clips),))
        missing = np.flatnonzero(done_M == 0).tolist()
        accelerator.wait_for_everyone()  # all have seen the same list before anybody shortens it
        with accelerator.split_between_processes(missing) as mine:
            _fill(model, clips, tokens_MV, done_M, mine, accelerator, workers, unreadable)
        unreadable.share()
        accelerator.wait_for_everyone()
        if not done_M.any():
            raise unreadable.nothing_left(f"the {unreadable.part} list")
        # Mapped while the lock is held: from here on the numbers stay, even if another run removes the files or reads
        # what could not be read.
        return CachedClips(np.memmap(entry / TOKENS, cache.dtype, "r", shape=shape), np.asarray(done_M != 0), clips)


def _fill(
    model: TunedModel,
    clips: Clips,
    tokens_MV: np.memmap,
    done_M: np.ndarray,
    missing: list[int],
    accelerator: Accelerator,
    workers: int,
    unreadable: Unreadable,
) -> None:
    views = tokens_MV.shape[1]
    size = max(1, FORWARD_BATCH // views)
    keys = [(index, tuple(range(views))) for index in missing]
    loader = load(clips, [keys[start : start + size] for start in range(0, len(keys), size)], workers)
    model.eval()
    with tqdm(
        total=len(keys), desc=f"frozen prefix, {unreadable.part}", unit="clip", disable=None if keys else True
    ) as bar:
        for sample in loader:
            unreadable.note(sample)
            place = sample.place[sample.readable].numpy()
            if len(place):
                with accelerator.autocast():
                    prefix = model.prefix(sample.views[sample.readable].flatten(0, 1).to(accelerator.device))
                tokens_MV[place] = prefix.float().cpu().numpy().reshape(len(place), *tokens_MV.shape[1:])
                tokens_MV.flush()  # on disk before it counts as done
                done_M[place] = 1
            bar.update(len(sample.place))


def _bytes(model: TunedModel, clips: int, views: int, cache: Cache) -> int:
    return clips * views * math.prod(model.prefix_shape()) * np.dtype(cache.dtype).itemsize


def _key(model: TunedModel, clips: Clips, views: int, cache: Cache, precision: str) -> dict[str, Any]:
    """All that the numbers depend on, in words that a person can read in the entry's key.json."""
    files = hashlib.sha256()
    for index, item in enumerate(clips.items):
        what = (item.path, item.start, item.end, _version(item.path), clips.flips(index))
        files.update(f"{what}".encode())
    source = hashlib.sha256("".join(inspect.getsource(module) for module in SOURCES).encode())
    return {
        "backbone": model.backbone_sha256,
        "prefix": list(model.prefix_shape()),
        "blocks": 0 if model.method.tunes_backbone else model.method.first_block,
        "clip": clips.spec.to_dict(),
        "augment": clips.augment.model_dump() if clips.augment else None,
        "decoder": clips.decoder,
        "seed": clips.seed if clips.augment else None,
        "views": views,
        "files": files.hexdigest(),
        "dtype": cache.dtype,
        "precision": precision,
        "packages": versions(PACKAGES),
        "source": source.hexdigest(),
    }


def _version(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None when it is not there, which is told when it is read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _reserve(entry: Path, clips: int, need: int, cache: Cache) -> None:
    """Make room for an entry and allocate it on disk, all zeros; an entry that is there already is left alone."""
    with _locked(entry.parent / "reserve.lock"):
        if (entry / DONE).is_file():
            return
        sizes = {path.parent: path.stat() for path in entry.parent.glob(f"*/{TOKENS}") if path.parent != entry}
        excess = sum(stat.st_size for stat in sizes.values()) + need - cache.max_gb * 1e9
        victims: list[Path] = []
        for path in sorted(sizes, key=lambda path: sizes[path].st_mtime):
            if excess > 0:
                victims.append(path)
                excess -= sizes[path].st_size
        free = shutil.disk_usage(entry.parent).free + sum(sizes[path].st_size for path in victims)
        if free < need:  # before anything is removed
            raise _no_room(entry, need, f"{free / 1e9:.2f} GB free")
        for path in victims:
            _remove_unless_used(path, cache)
        entry.mkdir(parents=True, exist_ok=True)
        try:
            for name, size in ((TOKENS, need), (DONE, clips)):
                with (entry / name).open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            shutil.rmtree(entry)
            raise _no_room(entry, need, str(error)) from None


def _no_room(entry: Path, need: int, found: str) -> AptEdgeError:
    return AptEdgeError(
        f"there is no room for {need / 1e9:.2f} GB of frozen prefixes in {entry.parent}",
        found=found,
        fix="free some space, set cache.folder to another disk, cache.dtype = float16, or lower augment.views",
    )


def _remove_unless_used(path: Path, cache: Cache) -> None:
    """Remove an entry, unless a run is computing it: the budget waits for the next one then."""
    try:
        with _locked(_lock_of(path), wait=False):
            print(f"cache.max_gb = {cache.max_gb:g}: removing the longest unused entry {path}", file=sys.stderr)
            shutil.rmtree(path)
    except BlockingIOError:
        print(f"cache.max_gb = {cache.max_gb:g} is exceeded: {path} is in use", file=sys.stderr)


def _lock_of(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file; raises BlockingIOError when another run holds it and this one does not wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextmanager
def _alone(entry: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold an entry's lock in the first process, so that two runs do not compute it twice."""
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        yield
        return
    with _locked(_lock_of(entry)):
        accelerator.wait_for_everyone()
        yield
