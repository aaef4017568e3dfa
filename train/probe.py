"""Linear probe: how much of a labelled task can be read linearly from the mean-pooled tokens of a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apt_edge.backbone.vit import Vit
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.video.lists import read_list
from apt_edge.video.load import load_clip

STEPS, LEARNING_RATE, WEIGHT_DECAY = 400, 0.01, 0.05


@dataclass(frozen=True)
class Labelled:
    """Clips float32 `[M, 3, T, S, S]` and their classes int64 `[M]`."""

    clips: Tensor
    labels: Tensor


def read_labelled(path: str | Path, spec: ClipSpec) -> Labelled:
    """Decode every video of a list with classes into memory; raises ConfigError or VideoError."""
    items = read_list(path).items
    if unlabelled := [item for item in items if item.label is None]:
        raise ConfigError(
            f"{path} does not say the class of {unlabelled[0].path.name}", fix="a probe needs `video label` lines"
        )
    clips = np.stack([load_clip(item, spec) for item in items])
    return Labelled(torch.from_numpy(clips), torch.tensor([item.label for item in items]))


def pooled_features(vit: Vit, clips: Tensor, batch: int = 64) -> Tensor:
    """Mean over the tokens of the last block, `[M, C]`, on the CPU."""
    device = next(vit.parameters()).device
    with torch.no_grad():
        return torch.cat([vit(part.to(device)).mean(dim=1).cpu() for part in clips.split(batch)])


def linear_probe(vit: Vit, train: Labelled, val: Labelled) -> float:
    """Fit a softmax classifier on standardised pooled features; returns the top-1 share on `val`."""
    features, held_out = pooled_features(vit, train.clips), pooled_features(vit, val.clips)
    mean, std = features.mean(dim=0), features.std(dim=0) + 1e-6
    features, held_out = (features - mean) / std, (held_out - mean) / std
    classes = int(max(train.labels.max(), val.labels.max())) + 1
    linear = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimiser = torch.optim.AdamW(linear.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(linear(features), train.labels, label_smoothing=0.1).backward()
        optimiser.step()
    with torch.no_grad():
        return float((linear(held_out).argmax(dim=1) == val.labels).float().mean())
