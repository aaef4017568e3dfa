"""Real exports of one tiny pack, each made once a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from tests.conftest import TINY, tiny_pack
from tests.export.exporting import target, tiny_export

BATCH = ("batch.opt=2", "batch.max=4")
ROWS = (*BATCH, "prompts.mode=bound", "prompts.per_row=true", "prompts.max_count=16", "prompts.max_classes=8")
CLIPS = ("gate=none", "input=float32", *BATCH)

Exported = Callable[..., Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`exported(page, *changes)`: an export of a shipped page with changes `a.b=value`."""
    torch.manual_seed(0)
    vit = freeze(Vit(TINY))
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    frames = np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3), dtype=np.uint8)
    export = tiny_export(folded_model(tiny_pack(vit, tokens=8), vit), frames)
    made: dict[tuple[str, ...], Path] = {}

    def get(page: str, *changes: str) -> Path:
        key = (page, *changes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("export") / page
            export.to(target(page, *changes), made[key])
        return made[key]

    return get


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """`changed(model, path, value)`: a copy whose sidecar has another value, at a path like `clip.frames`."""

    def change(model: Path, path: str, value: object) -> Path:
        copy = tmp_path / f"changed {path}"
        shutil.copytree(model, copy)
        facts = json.loads((copy / "model.json").read_text())
        *outer, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        entry = facts
        for part in outer:
            entry = entry[part]
        entry[last] = value
        (copy / "model.json").write_text(json.dumps(facts))
        return copy

    return change
