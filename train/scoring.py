"""What a model says of whole videos: softmax averaged over their views, with one batch of clips in memory at a time.

Shapes: B batch, V crops, C colour (3), T frames, S model input size, K classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from apt_edge.backbone.folded import FoldedModel
from apt_edge.clip import ClipSpec
from apt_edge.errors import AptEdgeError, reason_of
from apt_edge.files import as_text, atomic
from apt_edge.video.preprocess import gain_and_offset
from apt_edge.video.views import Views, load_view
from train.engine.data import Clips, load, shuffle_frames
from train.engine.order import FORWARD_BATCH, Key

TOP = 5


@dataclass(frozen=True)
class Verdict:
    """What a model says of one video of a list.

    Attributes:
        path, label: of the list; labels are classes from 0.
        top: the five likeliest classes (or all), likeliest first; empty when the video cannot be read.
        probabilities: of these, the mean of softmax over all views.
        shuffled: the likeliest class of its frames in random order; None when there are several views.
        reason: why the video cannot be read; empty when it can.
    """

    path: Path
    label: int
    top: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    shuffled: int | None = None
    reason: str = ""

    @property
    def right(self) -> bool:
        """Whether the likeliest class is the label; a video that cannot be read is wrong."""
        return self.top[:1] == (self.label,)


class _Crops(NamedTuple):
    """The crops of one clip along time; in a batch every field has one more axis.

    Attributes:
        pixels: uint8 `[V, T, S, S, C]`: workers hold whole batches ready, and float32 would be four times as much.
        place: of the video in its list.
        reason: why it cannot be read; empty when it can.
    """

    pixels: Tensor
    place: Tensor
    reason: str | list[str]


class _ViewClips(Dataset[_Crops]):
    """The crops of one clip along time of a video, indexed by `(video, (clip,))`."""

    def __init__(self, clips: Clips, views: Views) -> None:
        self.clips, self.views = clips, views

    def __getitem__(self, key: Key) -> _Crops:
        """A file that cannot be read is told as text: raised in a worker, the error would drown in a traceback."""
        place, (clip,) = key
        item, spec = self.clips.items[place], self.clips.spec
        try:
            crops_VTSSC = load_view(item, spec, self.views, clip, self.clips.decoder)
        except (AptEdgeError, OSError) as error:
            nothing = torch.zeros(self.views.crops, spec.frames, spec.size, spec.size, 3, dtype=torch.uint8)
            return _Crops(nothing, torch.tensor(place), reason_of(error, item.path))
        return _Crops(torch.from_numpy(crops_VTSSC), torch.tensor(place), "")


def verdicts(
    model: FoldedModel, clips: Clips, views: Views, device: torch.device, workers: int = 0
) -> Iterator[Verdict]:
    """One verdict a video, in the order of the list, which says every video's class."""
    keys: list[Key] = [(place, (clip,)) for place in range(len(clips)) for clip in range(views.clips)]
    size = max(1, FORWARD_BATCH // views.crops)
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    total_K, seen, reason = np.zeros(1), 0, ""  # of the video whose clips are being seen
    for crops in cast("DataLoader[_Crops]", load(_ViewClips(clips, views), batches, workers)):
        scores_BK, shuffled_B = _scores(model, crops, clips.spec, views == Views(), device)
        for index, place in enumerate(crops.place.tolist()):
            total_K, seen, reason = total_K + scores_BK[index], seen + 1, reason or crops.reason[index]
            if seen < views.clips:
                continue
            item = clips.items[place]
            assert item.label is not None
            if reason:
                yield Verdict(item.path, item.label, reason=reason)
            else:
                mean_K = total_K / (views.clips * views.crops)
                top = np.argsort(-mean_K, kind="stable")[:TOP].tolist()
                shuffled = shuffled_B[index] if shuffled_B else None
                yield Verdict(item.path, item.label, tuple(top), tuple(mean_K[top].tolist()), shuffled)
            total_K, seen, reason = np.zeros(1), 0, ""


@torch.no_grad()
def _scores(
    model: FoldedModel, crops: _Crops, spec: ClipSpec, shuffle: bool, device: torch.device
) -> tuple[np.ndarray, list[int]]:
    """Softmax summed over the crops, float64 `[B, K]`, and the likeliest classes of the frames in random order."""
    batch = len(crops.place)
    clip_NCTSS = normalised(crops.pixels.flatten(0, 1).to(device), spec)  # N = B V
    softmax_BVK = model(clip_NCTSS).double().softmax(dim=1).unflatten(0, (batch, -1))
    scores_BK = softmax_BVK.sum(dim=1).cpu().numpy()
    if not shuffle:
        return scores_BK, []
    return scores_BK, model(shuffle_frames(clip_NCTSS, crops.place)).argmax(dim=1).tolist()


def normalised(pixels_NTSSC: Tensor, spec: ClipSpec) -> Tensor:
    """`apt_edge.video.preprocess.normalise` of a batch where its pixels are: the same float32 `[N, C, T, S, S]`."""
    gain, offset = (torch.from_numpy(x).to(pixels_NTSSC.device).view(3, 1, 1, 1) for x in gain_and_offset(spec))
    clip_NCTSS = pixels_NTSSC.permute(0, 4, 1, 2, 3).contiguous().float()
    return clip_NCTSS.mul_(gain).add_(offset)


def write_predictions(path: Path, found: Iterable[Verdict], labels: Sequence[str], views: Views) -> None:
    """One video a line: a CSV table where `path` ends so, else JSON lines.

    Every line has `path`, `label`, `predicted`, `right`, `views` and `reason` (None unless the video cannot be read);
    the five likeliest classes and their probabilities are a list `top` of pairs, or columns of their own in a table.
    """
    rows = [_row(verdict, labels, views) for verdict in found]
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix != ".csv":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        names = [f"{name}_{number}" for number in range(1, TOP + 1) for name in ("class", "probability")]
        table = csv.writer(file)
        table.writerow(["path", "label", "predicted", "right", "views", "reason", *names])
        for row in rows:
            top = [cell for pair in row.pop("top") for cell in pair]
            table.writerow([*row.values(), *top])


def _row(verdict: Verdict, labels: Sequence[str], views: Views) -> dict[str, Any]:
    return {
        "path": as_text(verdict.path),
        "label": as_text(labels[verdict.label]),
        "predicted": as_text(labels[verdict.top[0]]) if verdict.top else None,
        "right": verdict.right,
        "views": str(views),
        "reason": verdict.reason or None,
        "top": [[as_text(labels[k]), p] for k, p in zip(verdict.top, verdict.probabilities, strict=True)],
    }
