"""The shipped recipes: each one loads, is named as its file, counts what the papers count, and trains its method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.vit import Head, Vit, size_by_name
from apt_edge.config import load_toml
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel
from tests.conftest import TINY
from train.engine.optim import adamw
from train.recipe import Recipe

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "train" / "recipes"
RECIPES = [path for path in sorted(FOLDER.rglob("*.toml")) if "\n[method]\n" in path.read_text(encoding="utf-8")]
DATASETS = {"ucf101": 101, "hmdb51": 51, "ssv2": 174, "k400": 400}  # classes
VIEWS = {"ucf101": (5, 3), "hmdb51": (10, 3), "ssv2": (2, 3), "k400": (5, 3)}  # clips and crops of the published tests
SIZES = {"vits": "vit-small", "vitb": "vit-base"}
COLLECTION = [path for path in RECIPES if path.parent.name in DATASETS]


def name_of(path: Path) -> str:
    """What a recipe at this place is called."""
    return "-".join((*path.parent.relative_to(FOLDER).parts, path.stem))


every_recipe = pytest.mark.parametrize("path", RECIPES, ids=name_of)


def test_the_collection_is_complete() -> None:
    methods = ("apt", "vpt-deep", "adaptformer", "linear", "full")
    wanted = {f"{data}-{size}-{method}" for data in DATASETS for size in SIZES for method in methods}
    assert {name_of(path) for path in COLLECTION} == wanted
    assert {name_of(path) for path in RECIPES} >= {"demo-apt", "demo-vpt-deep", "demo-linear"}


@every_recipe
def test_a_recipe_is_named_as_its_file_and_says_how_it_is_started(path: Path) -> None:
    assert load_toml(path, Recipe).name == name_of(path)
    assert f"python -m train.tune {path.relative_to(ROOT).as_posix()}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", COLLECTION, ids=name_of)
def test_a_page_of_the_collection_says_what_it_reproduces_and_keeps_to_the_common_settings(path: Path) -> None:
    recipe, text = load_toml(path, Recipe), path.read_text(encoding="utf-8")
    data, (size, method) = path.parent.name, path.stem.split("-", 1)
    assert recipe.method["name"] == method
    assert len(text.splitlines()) <= 50
    assert "no table row" in text or "Table 5" in text or "Table 1" in text
    assert "Differs from" in text
    assert f"python -m train.tune train/recipes/{data}/{path.name} --data /data/{data} --workers 8\n" in text
    assert recipe.data.train == recipe.data.val == f"data/{data}"
    assert recipe.data.labels is None
    assert (recipe.test.clips, recipe.test.crops) == VIEWS[data]
    assert recipe.backbone == f"weights/videomae-{size}-{'ssv2' if data == 'ssv2' else 'k400'}.safetensors"
    assert (recipe.clip.frames, recipe.clip.size) == (16, 224)
    assert recipe.clip.sampling == ("segments" if data == "ssv2" else "dense")
    assert recipe.augment.hflip == (data != "ssv2")  # left and right are classes there
    assert recipe.augment.num_sample == 2
    assert recipe.optim.batch == 64
    if method != "full":
        assert (recipe.optim.epochs, recipe.optim.warmup_epochs, recipe.optim.weight_decay) == (100, 10, 1e-5)


@pytest.mark.parametrize(
    ("name", "overrides", "trained"),
    [
        ("ssv2/vits-apt", ["method.tokens=400"], 691_758),
        ("ssv2/vits-apt", ["method.tokens=2000"], 3_187_758),
        ("ucf101/vitb-apt", ["method.tokens=1"], 80_765),
        ("ucf101/vitb-apt", ["method.tokens=100"], 235_205),
        ("ucf101/vitb-apt", ["method.tokens=400"], 703_205),
        ("ucf101/vitb-vpt-deep", ["method.tokens=5"], 12 * 5 * 768 + 79_205),
        ("ucf101/vitb-adaptformer", ["method.r=4"], 82_992 + 79_205),
        ("ssv2/vitb-adaptformer", [], 1_189_632 + 135_342),
        ("ssv2/vitb-linear", [], 135_342),
        ("k400/vitb-linear", [], 309_136),
        ("ssv2/vitb-full", [], 86_361_006),
    ],
)
def test_trained_parameters_are_those_of_the_papers_tables(name: str, overrides: list[str], trained: int) -> None:
    recipe = load_toml(FOLDER / f"{name}.toml", Recipe, overrides)
    data, page = name.split("/")
    config = size_by_name(SIZES[page.split("-")[0]])
    method = METHODS[recipe.method["name"]](config, **recipe.settings)
    head = Head(config.width, DATASETS[data])
    assert method.parameter_count() + sum(p.numel() for p in head.parameters()) == trained


@every_recipe
def test_two_steps_of_its_method_move_every_trained_tensor(path: Path) -> None:
    recipe = load_toml(path, Recipe)
    fits_two_blocks = {"tokens": 6, "r": 6, "start": 0, "end": None}
    settings = {key: fits_two_blocks.get(key, value) for key, value in recipe.settings.items()}
    torch.manual_seed(recipe.seed)
    vit = freeze(Vit(TINY))
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model = TunedModel(vit, METHODS[recipe.method["name"]](TINY, **settings), classes=5).train()
    optim = recipe.optim
    optimiser = adamw(model, optim)
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    before = {name: tensor.detach().clone() for name, tensor in trained.items()}
    clips, labels = torch.randn(4, 3, TINY.frames, TINY.size, TINY.size), torch.tensor([0, 1, 2, 3])
    for _ in range(2):
        loss = F.cross_entropy(model(clips), labels, label_smoothing=optim.label_smoothing)
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert trained
    assert all(tensor.isfinite().all() for tensor in trained.values())
    assert [name for name, tensor in trained.items() if torch.equal(tensor, before[name])] == []
    frozen = [tensor for name, tensor in model.named_parameters() if name not in trained]
    assert all(tensor.grad is None for tensor in frozen)
