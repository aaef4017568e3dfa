"""Clips for the GPU suite, drawn by `train.synthetic`: moving textured shapes, from a seed, without any video file.

Shapes: B clips, T frames, S size in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apt_edge.backbone.vit import VitConfig
from apt_edge.clip import ClipSpec
from apt_edge.video.preprocess import normalise
from apt_edge.video.sampling import clip_indices
from train.synthetic.actions import LABELS, scene, write_script
from train.synthetic.scene import render

DESCRIPTION = "drawn by train.synthetic.actions, not decoded from files"
Labelled = tuple[Tensor, Tensor]
SPLITS = {"train": 0, "val": 1}


def drawn_clips(config: VitConfig, count: int, split: str = "val") -> Labelled:
    """`count` labelled clips `[B, 3, T, S, S]` float32 as a model sees them, and their classes `[B]`.

    The two splits share neither scripts nor textures; classes take turns.
    """
    spec = ClipSpec(frames=config.frames, size=config.size, sampling="segments")
    clips, labels = [], []
    for index in range(count):
        rng = np.random.default_rng([SPLITS[split], index])
        script = write_script(index % len(LABELS), split, rng)
        frames = render(scene(script), config.size, rng)[clip_indices(script.frames, spec, None)]
        clips.append(torch.from_numpy(normalise(frames, spec)))
        labels.append(script.label)
    return torch.stack(clips), torch.tensor(labels)
