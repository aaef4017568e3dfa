"""Small models for several tasks, exported once per run, and packs for them."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.pack import FoldedKV, PromptPack
from export.model import Export
from tests.conftest import TINY, TINY_CLIP, tiny_pack
from tests.export.exporting import target

FREE = ("prompts.mode=bound", "prompts.max_count=8", "prompts.max_classes=9")
CUTS = "split_at=[0, 1]"


@cache
def backbone() -> Vit:
    """The backbone of all packs."""
    torch.manual_seed(0)
    vit = freeze(Vit(TINY))
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return vit


@cache
def packs() -> dict[str, PromptPack]:
    """`one`, `other` (other prompts, counts and classes), `late` (second block alone), `none` (no prompts), `wide`."""
    vit, random = backbone(), np.random.default_rng(2)
    one, late = tiny_pack(vit, tokens=6), tiny_pack(vit, tokens=4, start=1)

    def drawn(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    other = dataclasses.replace(
        one,
        kv={0: FoldedKV(drawn(1, 3, 32), drawn(1, 3, 32)), 1: FoldedKV(drawn(1, 8, 32), drawn(1, 8, 32))},
        head={"norm.weight": drawn(64), "norm.bias": drawn(64), "weight": drawn(3, 64), "bias": drawn(3)},
        labels=("x", "y", "z"),
    )
    return {
        "one": one,
        "other": other,
        "late": late,
        "none": tiny_pack(vit, "linear"),
        "wide": tiny_pack(vit, "vpt-deep", tokens=6),
    }


def frames() -> np.ndarray:
    """Four clips, uint8 `[4, 4, 32, 32, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3), dtype=np.uint8)


def write_models(root: Path) -> None:
    """Packs as files; `one` folded, bound, with free axes, also in parts, and with a task for each row; others folded.

    `parts` has one for the patches of a tubelet, one for the first block and one for the rest.
    """
    for name, pack in packs().items():
        pack.save(root / f"{name}.safetensors")
    changes = {
        "one": {"folded-one": (), "bound": ("prompts.mode=bound",), "free": FREE},
        "other": {"folded-other": ()},
        "late": {"folded-late": (), "folded-parts": (CUTS,), "float32-parts": (CUTS, "input=float32")},
    }
    changes["one"]["parts"] = (*FREE, CUTS)
    changes["one"]["rows"] = (*FREE, "prompts.per_row=true", "batch.opt=2", "batch.max=4")
    for name, models in changes.items():
        pack = packs()[name]
        model = folded_model(pack, backbone())
        facts = {"backbone": {"name": "tiny", "sha256": pack.backbone.sha256}, "form": pack.form}
        export = Export(model, frames=frames(), clip=TINY_CLIP, labels=pack.labels, facts=facts)
        for folder, settings in models.items():
            export.to(target("onnxruntime-cpu", *settings), root / folder)
