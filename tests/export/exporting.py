"""Small exports for tests: the same request is made once per run and copied afterwards."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.backbone.checkpoints import backbone_hash
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.vit import Vit
from apt_edge.runtime.ort import OrtSession
from export.model import Export
from export.target import Target, load_target
from tests.conftest import TINY_CLIP, tiny_pack

LABELS = tuple(f"class {i}" for i in range(5))
PAGES = Path(__file__).parents[2] / "export" / "targets"
MADE: dict[str, Export] = {}
DONE: dict[str, Path] = {}


def target(page: str = "onnxruntime-cpu", *changes: str) -> Target:
    """A shipped target with changes `a.b=value`; five classes and four clips make float16 coarse."""
    coarse = (
        []
        if page in ("onnxruntime-cpu", "openvino-cpu")
        else ["tolerance.max_abs=0.05", "tolerance.top1_agreement=0.5"]
    )
    return load_target(PAGES / f"{page}.toml", [*coarse, *changes])


def tiny_export(model: Any, frames: np.ndarray, **facts: Any) -> Export:
    """An export of a model with five classes on tiny clips."""
    return Export(model, frames=frames, clip=TINY_CLIP, labels=LABELS, facts=facts)


def export(
    vit: Vit, frames: np.ndarray, out: Path, method: str = "apt", chosen: Target | None = None, **settings: Any
) -> tuple[FoldedModel, dict[str, Any]]:
    """Export a pack of `vit` to `out`; returns the folded model and the sidecar."""
    model = folded_model(tiny_pack(vit, method, **settings), vit)
    chosen = chosen or target()
    asked = f"{backbone_hash(vit)} {sha256(frames).hexdigest()} {method} {settings}"
    key = f"{asked} {chosen}"
    if key not in DONE:
        made = Path(tempfile.mkdtemp()) / "m"
        atexit.register(shutil.rmtree, made.parent)
        if asked not in MADE:  # one trace for all targets
            MADE[asked] = tiny_export(model, frames, method=method)
        MADE[asked].to(chosen, made)
        DONE[key] = made
    shutil.copytree(DONE[key], out)
    return model, json.loads((out / "model.json").read_text())


def logits(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What an exported directory's graph gives in ONNX Runtime."""
    return OrtSession(path / "model.onnx", threads=1).run(feeds)["logits"]
