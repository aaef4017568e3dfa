"""The frozen prefix on disk: what it holds, when it is used again, how its budget is kept, how it goes on."""

from __future__ import annotations

import fcntl
from pathlib import Path

import numpy as np
import pytest
import torch

from apt_edge.errors import AptEdgeError, VideoError
from apt_edge.methods.tuned import TunedModel
from apt_edge.video.lists import Item
from tests.train.conftest import Task
from train.devices import make_accelerator
from train.engine import cache
from train.engine.cache import CachedClips, cached
from train.engine.data import Clips, read_items
from train.engine.unreadable import Unreadable
from train.recipe import Cache, Recipe
from train.tune import build_model


def prefixes(recipe: Recipe, model: TunedModel | None = None, clips: Clips | None = None) -> CachedClips:
    if clips is None:
        items = read_items(recipe.data, "train").items
        clips = Clips(items, recipe.clip.spec(), recipe.augment, recipe.seed)
    accelerator = make_accelerator(torch.device("cpu"))
    unreadable = Unreadable(clips.items, "test")
    model = model or build_model(recipe, 3)
    return cached(model, clips, recipe.augment.views, recipe.cache, accelerator, 0, unreadable)


def entries(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/prefix.bin")}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 2e-3)])
def test_an_entry_holds_the_prefix_of_every_view(task: Task, tmp_path: Path, dtype: str, tolerance: float) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}", f"cache.dtype={dtype}")
    model = build_model(recipe, 3)
    kept = prefixes(recipe, model)
    clips = Clips(read_items(recipe.data, "train").items, recipe.clip.spec(), recipe.augment, recipe.seed)
    assert len(kept) == len(clips)
    for index in (0, 17):
        expected = clips[index, (1, 0)]
        found = kept[index, (1, 0)]
        difference = (found.views - model.prefix(expected.views)).abs().max()
        assert difference <= tolerance * found.views.abs().max() + 1e-6
        assert found.labels.tolist() == [clips.items[index].label] * 2
        assert found.readable
    assert np.prod(kept.tokens_MV.shape) * np.dtype(dtype).itemsize == sum(
        path.stat().st_size for path in tmp_path.glob("*/prefix.bin")
    )


def test_an_entry_is_used_again_and_nothing_else_shares_it(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"cache.folder={tmp_path.as_posix()}"
    first = prefixes(task.recipe(folder))
    assert len(entries(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr("train.engine.cache._fill", lambda *arguments: assert_nothing_to_do(arguments[4]))
        again = prefixes(task.recipe(folder, "method={name='vpt-deep', tokens=3, start=1}", "optim.base_lr=1.0"))
    assert np.array_equal(first.tokens_MV, again.tokens_MV)
    others = ["seed=1", "augment.views=1", "augment.scale=[0.5, 1.0]", "method.start=0", "cache.dtype=float16"]
    for number, other in enumerate(others):
        prefixes(task.recipe(folder, other))
        assert len(entries(tmp_path)) == number + 2, other
    other_weights = build_model(task.recipe(folder), 3)
    other_weights.backbone_sha256 = "0" * 64
    prefixes(task.recipe(folder), other_weights)
    assert len(entries(tmp_path)) == len(others) + 2


def assert_nothing_to_do(missing: list[int]) -> None:
    assert missing == []


def test_a_changed_video_makes_another_entry(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}")
    items = read_items(recipe.data, "train").items[:2]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(items[0].path.read_bytes())
    clips = Clips([Item(copy, 0), items[1]], recipe.clip.spec(), recipe.augment)
    before = prefixes(recipe, clips=clips).tokens_MV.copy()
    copy.write_bytes(read_items(recipe.data, "train").items[5].path.read_bytes())
    after = prefixes(recipe, clips=clips).tokens_MV
    assert len(entries(tmp_path)) == 2
    assert not np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_an_interrupted_entry_goes_on(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("whole", "cut")]
    recipes = [task.recipe(f"cache.folder={folder.as_posix()}") for folder in folders]
    whole = prefixes(recipes[0]).tokens_MV
    monkeypatch.setattr("train.engine.cache.FORWARD_BATCH", 2)  # of 2 views: one clip at a time
    real = TunedModel.prefix
    calls = iter(range(100))

    def interrupted(model: TunedModel, clip: torch.Tensor) -> torch.Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(model, clip)

    with monkeypatch.context() as patch:
        patch.setattr(TunedModel, "prefix", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prefixes(recipes[1])
    done = next(folders[1].glob("*/done.bin"))
    assert np.fromfile(done, np.uint8).tolist() == [1] * 3 + [0] * 21
    asked: list[list[int]] = []
    fill = cache._fill
    monkeypatch.setattr("train.engine.cache._fill", lambda *a: (asked.append(a[4]), fill(*a)))
    assert np.allclose(prefixes(recipes[1]).tokens_MV, whole, atol=1e-6)
    assert asked == [list(range(3, 24))]


def test_an_unreadable_clip_has_no_prefix_and_is_tried_again(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}")
    items = read_items(recipe.data, "train").items[:3]
    items[1] = Item(tmp_path / "gone.mp4", 1)
    clips = Clips(items, recipe.clip.spec(), recipe.augment)
    kept = prefixes(recipe, clips=clips)
    samples = [kept[index, (1, 0)] for index in range(3)]
    assert [bool(sample.readable) for sample in samples] == [True, False, True]
    assert not samples[1].views.any()
    assert samples[1].labels.tolist() == [1, 1]
    assert "gone.mp4" in capsys.readouterr().err
    asked: list[list[int]] = []
    fill = cache._fill
    monkeypatch.setattr("train.engine.cache._fill", lambda *a: (asked.append(a[4]), fill(*a)))
    again = prefixes(recipe, clips=clips)
    assert asked == [[1]]
    assert np.array_equal(again.tokens_MV, kept.tokens_MV)
    assert "gone.mp4" in capsys.readouterr().err


def test_what_stands_at_the_head_of_a_list_decides_nothing(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}")
    gone = [Item(tmp_path / f"{n}.mp4", 0) for n in range(100)]
    gone[0] = Item(tmp_path / f"{'long' * 100}.mp4", 0)  # no file system asks for such a name without an error
    items = [*gone, *read_items(recipe.data, "train").items[:2]]
    kept = prefixes(recipe, clips=Clips(items, recipe.clip.spec(), recipe.augment))
    assert kept.readable_M.tolist() == [False] * 100 + [True] * 2
    with pytest.raises(VideoError, match=r"no clip of the test list can be read\n.*long\.mp4: "):
        prefixes(recipe, clips=Clips(gone, recipe.clip.spec(), recipe.augment))


def test_kept_views_know_the_classes_of_flipped_draws(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}", "augment.hflip=true", "augment.views=8")
    items = read_items(recipe.data, "train").items[:2]
    items = [Item(item.path, label) for label, item in enumerate(items)]
    clips = Clips(items, recipe.clip.spec(), recipe.augment, mirror=[1, 0])
    draws = tuple(range(8))
    kept = prefixes(recipe, clips=clips)
    labels = [kept[index, draws].labels.tolist() for index in (0, 1)]
    assert labels == [clips[index, draws].labels.tolist() for index in (0, 1)]
    assert set(labels[0]) == {0, 1}
    prefixes(recipe, clips=Clips(items, recipe.clip.spec(), recipe.augment, mirror=[None, None]))
    assert len(entries(tmp_path)) == 2  # never flipped: other numbers


def test_nothing_is_removed_for_what_the_disk_cannot_hold(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}")
    prefixes(recipe)
    before = entries(tmp_path)
    beyond = Cache(folder=str(tmp_path), max_gb=1e9)
    with pytest.raises(AptEdgeError, match=r"there is no room for 1000000000\.00 GB.*\n.*GB free"):
        cache._reserve(tmp_path / "huge", 10, 10**18, beyond)
    assert entries(tmp_path) == before


def test_an_entry_that_another_run_computes_is_not_removed(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = task.recipe(f"cache.folder={tmp_path.as_posix()}")
    size = prefixes(recipe).tokens_MV.nbytes
    (name,) = entries(tmp_path)
    with (tmp_path / f"{name}.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        prefixes(task.recipe(f"cache.folder={tmp_path.as_posix()}", "seed=1", f"cache.max_gb={1.5 * size / 1e9}"))
    assert name in entries(tmp_path)
    assert "is in use" in capsys.readouterr().err


def test_the_longest_unused_entry_makes_room(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"cache.folder={tmp_path.as_posix()}"
    size = prefixes(task.recipe(folder)).tokens_MV.nbytes
    first = entries(tmp_path)
    prefixes(task.recipe(folder, "seed=1"))
    prefixes(task.recipe(folder))  # used again: the other one is older now
    prefixes(task.recipe(folder, "seed=2", f"cache.max_gb={2.5 * size / 1e9}"))
    assert first < entries(tmp_path)
    assert len(entries(tmp_path)) == 2
    assert "removing the longest unused entry" in capsys.readouterr().err
