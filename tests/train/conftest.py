"""A task small enough to be tuned in a second: real mp4 files, a two-block backbone, a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import freeze, save_backbone
from apt_edge.backbone.vit import Vit
from apt_edge.config import load_toml
from tests.conftest import TINY
from train.recipe import Recipe

LABELS = ["red", "green", "blue"]
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}

RECIPE = """
name = "tiny"
backbone = "{folder}/tiny.safetensors"
[data]
train = "{folder}/train.csv"
val = "{folder}/val.csv"
labels = "{folder}/labels.txt"
[clip]
frames = 4
size = 32
sampling = "segments"
[method]
name = "apt"
tokens = 6
start = 1
[optim]
epochs = 4
warmup_epochs = 1
batch = 8
base_lr = 3.2
head_base_lr = 1.6
[augment]
views = 2
ratio = [1.0, 1.0]
[cache]
folder = "{folder}/cache"
"""


@dataclass(frozen=True)
class Task:
    """Where the files of the tiny task are."""

    folder: Path

    @property
    def path(self) -> Path:
        """The recipe file."""
        return self.folder / "tiny.toml"

    def recipe(self, *overrides: str) -> Recipe:
        """The recipe with settings changed as by `--set`."""
        return load_toml(self.path, Recipe, list(overrides))


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """24 training and 12 validation videos of noisy colour fields that drift, 3 classes by colour."""
    folder = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    (folder / "labels.txt").write_text("\n".join(COLOURS), encoding="utf-8")
    for name, count in (("train", 8), ("val", 4)):
        lines = []
        for number in range(count):
            for label, colour in enumerate(COLOURS.values()):
                file = f"{name}-{label}-{number}.mp4"
                write_video(folder / file, colour, rng)
                lines.append(f"{file} {label}")
        (folder / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    torch.manual_seed(0)
    save_backbone(folder / "tiny.safetensors", freeze(Vit(TINY)))
    (folder / "tiny.toml").write_text(RECIPE.format(folder=folder.as_posix()), encoding="utf-8")
    return Task(folder)


def write_video(path: Path, colour: tuple[int, int, int], rng: np.random.Generator, frames: int = 9) -> None:
    """An mp4 of 48x40 pixels whose colour is `colour` with noise and a brightness that drifts."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for frame in range(frames):
            noise = rng.normal(0, 25, (40, 48, 3))
            image = np.clip(np.array(colour) * rng.uniform(0.6, 1.1) + noise + 2 * frame, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
