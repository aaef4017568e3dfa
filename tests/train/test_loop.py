"""The training loop: gradients, schedule, groups, the two sources of batches, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from apt_edge.errors import AptEdgeError, ConfigError, VideoError
from apt_edge.methods.tuned import TunedModel
from apt_edge.video.lists import Item
from tests.train.conftest import Task
from train.data import Clips, FreshClips, batches, load, read_items, shuffle_frames
from train.loop import EpochRecord, Source, fit, lr_factor, parameter_groups, validate
from train.recipe import Recipe
from train.tune import build_model, make_sources

LABELS = ["red", "green", "blue"]


def sources(recipe: Recipe, model: TunedModel, workers: int = 0) -> tuple[Source, Source]:
    spec = recipe.clip.spec()
    train = Clips(read_items(recipe.data.train, LABELS), spec, recipe.augment, recipe.seed)
    return make_sources(model, recipe, train, Clips(read_items(recipe.data.val, LABELS), spec), workers)


def trained(recipe: Recipe, folder: Path, resume: bool = False) -> tuple[list[EpochRecord], dict[str, Tensor]]:
    """Train in a folder; the history without speeds, and the trained tensors."""
    folder.mkdir(exist_ok=True)
    model = build_model(recipe, 3)
    history = fit(model, *sources(recipe, model), recipe, folder, resume)
    tensors = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return [replace(record, clips_per_second=0.0) for record in history], tensors


@pytest.mark.parametrize("method", ["{name='apt', tokens=4}", "{name='vpt-deep', tokens=4, start=1}"])
@pytest.mark.parametrize("views", [0, 1])
def test_every_prompt_has_a_gradient_after_a_validation(task: Task, method: str, views: int) -> None:
    recipe = task.recipe(f"method={method}", f"augment.views={views}")
    model = build_model(recipe, 3)
    train, val = sources(recipe, model)
    model.train()
    validate(model, val)
    assert model.training
    assert not model.vit.training
    inputs, labels = next(iter(train.batches(0)))
    torch.nn.functional.cross_entropy(train.logits(model, inputs), labels).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("vit."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert all(row.abs().sum() > 0 for row in parameter.grad), name


def test_cached_and_fresh_first_epoch_agree(task: Task, tmp_path: Path) -> None:
    off = ["augment.scale=[1.0, 1.0]", "optim.epochs=1", "optim.warmup_epochs=0"]
    off += ["optim.prompt_lr=0.001", "optim.head_lr=0.001"]  # Adam's first steps amplify rounding by the rate
    cached, _ = trained(task.recipe(*off, "augment.views=1"), tmp_path / "cached")
    fresh, _ = trained(task.recipe(*off, "augment.views=0"), tmp_path / "fresh")
    assert abs(cached[0].loss - fresh[0].loss) <= 1e-6
    assert cached[0].val_accuracy == fresh[0].val_accuracy


@pytest.mark.parametrize("views", [0, 2])
def test_resumed_run_is_identical_to_the_bit(
    task: Task, tmp_path: Path, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = task.recipe(f"augment.views={views}", "method.dropout=0.3")
    whole, expected = trained(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.validate", interrupted_at(3))
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "cut")
    torch.manual_seed(12345)  # another process would not share the random state either
    history, tensors = trained(recipe, tmp_path / "cut", resume=True)
    assert history == whole
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [f'"epoch": {n},' in line for n, line in enumerate(lines, 1)] == [True] * 4


def interrupted_at(call: int):  # type: ignore[no-untyped-def]
    """`validate` that the user interrupts with Ctrl-C at its n-th call."""
    calls = iter(range(1, 100))

    def run(model: TunedModel, source: Source) -> tuple[float, float]:
        if next(calls) == call:
            raise KeyboardInterrupt
        return validate(model, source)

    return run


def test_another_recipe_is_not_resumed(task: Task, tmp_path: Path) -> None:
    trained(task.recipe("optim.epochs=1"), tmp_path)
    with pytest.raises(ConfigError, match=r"optim.prompt_lr was 0.1, is 0.2"):
        trained(task.recipe("optim.epochs=1", "optim.prompt_lr=0.2"), tmp_path, resume=True)


def test_loss_falls_and_the_classes_are_learnt(task: Task, tmp_path: Path) -> None:
    history, _ = trained(task.recipe("optim.epochs=8"), tmp_path)
    assert history[-1].loss < 0.75 * history[0].loss
    assert (history[-1].val_accuracy or 0) > 0.6  # chance is a third
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_diverged_loss_is_an_instruction(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe("method={name='linear'}", "optim.warmup_epochs=0")
    model = build_model(recipe, 3)
    with torch.no_grad():
        model.head.linear.bias[0] = float("nan")
    with pytest.raises(AptEdgeError, match=r"the loss is nan at step 0 \(epoch 1\)\n.*head_lr 0.05"):
        fit(model, *sources(recipe, model), recipe, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_schedule_starts_at_zero_peaks_and_ends_at_the_floor() -> None:
    factors = [lr_factor(step, steps=110, warmup_steps=10, min_ratio=0.1) for step in range(111)]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)


@pytest.mark.parametrize("parity", [False, True])
def test_only_matrices_decay_and_scales_on_request(task: Task, parity: bool) -> None:
    recipe = task.recipe(f"optim.official_parity={str(parity).lower()}", "optim.weight_decay=0.5")
    model = build_model(recipe, 3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, rates = set(), {}
    for group in parameter_groups(model, recipe.optim):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            rates[names[id(parameter)]] = group["peak_lr"]
            if group["weight_decay"] == 0.5:
                decayed.add(names[id(parameter)])
    assert decayed == {"method.key", "method.value", "head.linear.weight"} | ({"method.scale"} if parity else set())
    assert {name for name, rate in rates.items() if rate == 0.1} == {"method.key", "method.value", "method.scale"}
    assert len(rates) == 7


def test_clips_depend_on_seed_draw_and_place_alone(task: Task) -> None:
    recipe = task.recipe("augment.brightness=0.2", "augment.hflip=true")
    items = read_items(recipe.data.train, LABELS)
    clips = Clips(items, recipe.clip.spec(), recipe.augment, seed=0)
    other = Clips(items, recipe.clip.spec(), recipe.augment, seed=1)
    views = views_of(clips, 3, 0, 1)
    assert views.shape == (2, 3, 4, 32, 32)
    assert torch.equal(views[:1], views_of(clips, 3, 0))  # whatever is drawn beside it
    assert torch.equal(views[1:], views_of(clips, 3, 1))
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views, views_of(other, 3, 0, 1))
    plain = Clips(items, recipe.clip.spec())
    assert torch.equal(views_of(plain, 3, 0), views_of(plain, 3, 7))


def views_of(clips: Clips, index: int, *draws: int) -> Tensor:
    sample = clips[index, draws]
    assert not isinstance(sample, AptEdgeError)
    return sample.views


def test_shuffled_frames_are_the_same_frames_in_another_order() -> None:
    clips = torch.randn(6, 3, 8, 2, 2)
    places = torch.arange(6)
    shuffled = shuffle_frames(clips, places)
    assert torch.equal(shuffled, shuffle_frames(clips, places))
    assert torch.equal(shuffled[2:], shuffle_frames(clips[2:], places[2:]))  # whatever the batch
    assert not torch.equal(shuffled, clips)
    assert torch.equal(shuffled.sort(dim=2).values, clips.sort(dim=2).values)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_video_stops_with_its_name(task: Task, tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x01" * 400)
    items = [*read_items(task.folder / "train.csv", LABELS)[:2], Item(tmp_path / "broken.mp4", 0)]
    clips = Clips(items, task.recipe().clip.spec())
    with pytest.raises(VideoError, match=r"broken\.mp4") as caught:
        list(batches(load(clips, [(0, (0,)), (1, (0,)), (2, (0,))], 2, workers)))
    assert "Traceback" not in str(caught.value)


def test_each_epoch_has_its_own_order(task: Task) -> None:
    recipe = task.recipe()
    clips = Clips(read_items(recipe.data.train, LABELS), recipe.clip.spec(), recipe.augment)
    source = FreshClips(clips, 24, 0, shuffle_seed=5)
    orders = [next(iter(source.batches(epoch)))[1].tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert np.bincount(orders[1]).tolist() == [8, 8, 8]
