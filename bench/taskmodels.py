"""One random backbone, exported for several tasks, and random packs for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from apt_edge.methods.tuned import make_pack
from apt_edge.pack import FoldedKV, PromptPack
from bench.build import TARGETS, random_clips, random_facts
from bench.modules import SEED, clip_of, random_model
from bench.suite import RandomModel
from export.model import Export
from export.target import load_target

TARGET = "onnxruntime-cpu"
WIDE = 2.0  # standard deviation of the prompts, as tuned ones have: each task has logits of its own


class TaskModels:
    """Exports of a random model with prompts, all of one trace, and packs on its backbone.

    Args:
        size: of the backbone.
        tokens: prompts of a block.
        start: first block with prompts.
        classes: of every task.
    """

    def __init__(self, size: str, tokens: int, start: int, classes: int) -> None:
        settings = {"tokens": tokens, "start": start}
        request = RandomModel(size=size, method="apt", settings=settings, classes=classes)
        module, tuned = random_model(request)
        facts = random_facts(request, tuned)
        labels = facts.pop("labels")
        spec, name = clip_of(request), facts["backbone"]["name"]
        pack = make_pack(tuned, method="apt", settings=settings, clip=spec, labels=labels, backbone=name, training={})
        self.clip = random_clips(spec, 1)[0]
        self._pack = pack
        self._export = Export(
            module, frames=random_clips(spec, 2), clip=spec, labels=pack.labels, facts={**facts, "form": pack.form}
        )

    def pack(self, number: int) -> PromptPack:
        """The pack of one task: the exported one, which is number 0, with other prompts and another head."""
        if number == 0:
            return self._pack
        random = np.random.default_rng([SEED, number])

        def drawn(like: np.ndarray, scale: float) -> np.ndarray:
            return (scale * random.standard_normal(like.shape)).astype(np.float32)

        return dataclasses.replace(
            self._pack,
            kv={block: FoldedKV(*(drawn(array, WIDE) for array in kv)) for block, kv in self._pack.kv.items()},
            head={name: drawn(array, 0.1) for name, array in self._pack.head.items()},
        )

    def export(self, out: Path, *changes: str) -> Path:
        """Export for ONNX Runtime on a CPU, with changes of the target's page."""
        self._export.to(load_target(TARGETS / f"{TARGET}.toml", list(changes)), out)
        return out
