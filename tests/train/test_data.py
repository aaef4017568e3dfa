"""Clips from video files: every draw is fixed, frames can be shuffled, a broken file stops with its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from apt_edge.errors import AptEdgeError, VideoError
from apt_edge.video.lists import Item
from tests.train.conftest import LABELS, Task
from train.engine.data import Clips, batches, load, read_items, shuffle_frames


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
        list(batches(load(clips, [[(0, (0,)), (1, (0,))], [(2, (0,))]], workers)))
    assert "Traceback" not in str(caught.value)
