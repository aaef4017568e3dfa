"""Clips from video files: every draw and its class are fixed, frames can be shuffled, broken files are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apt_edge.errors import ConfigError
from apt_edge.video.lists import Item
from tests.train.conftest import LABELS, Task
from train.engine.data import Clips, Sample, leak, load, read_items, shuffle_frames
from train.engine.mirror import mirrored
from train.engine.order import Key
from train.engine.unreadable import Unreadable
from train.recipe import Augment, Data


def test_clips_depend_on_seed_draw_and_place_alone(task: Task) -> None:
    recipe = task.recipe("augment.brightness=0.2", "augment.hflip=true")
    items = read_items(recipe.data, "train").items
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
    assert sample.readable
    return sample.views


def test_flips_take_the_class_along_and_spare_what_has_no_image(task: Task) -> None:
    recipe = task.recipe()
    names = ["slide left", "slide right", "turn left"]
    items = [Item(item.path, label) for label, item in enumerate(read_items(recipe.data, "train").items[:3])]
    mirror, spec = mirrored(names, {}), recipe.clip.spec()
    plain = Clips(items, spec, Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0)), mirror=mirror)
    flipping = Clips(items, spec, Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=True), mirror=mirror)
    draws = tuple(range(40))
    for index, image in enumerate([1, 0, None]):
        sample, as_it_is = flipping[index, draws], plain[index, draws]
        flipped = [torch.equal(one, other.flip(-1)) for one, other in zip(sample.views, as_it_is.views, strict=True)]
        assert sample.labels.tolist() == [image if turned else index for turned in flipped]
        assert torch.equal(flipping.labels((index, draws)), sample.labels)
        assert as_it_is.labels.tolist() == [index] * 40
        assert 8 < sum(flipped) < 32 if image is not None else not any(flipped)


def test_shuffled_frames_are_the_same_frames_in_another_order() -> None:
    clips = torch.randn(6, 3, 8, 2, 2)
    places = torch.arange(6)
    shuffled = shuffle_frames(clips, places)
    assert torch.equal(shuffled, shuffle_frames(clips, places))
    assert torch.equal(shuffled[2:], shuffle_frames(clips[2:], places[2:]))  # whatever the batch
    assert not torch.equal(shuffled, clips)
    assert torch.equal(shuffled.sort(dim=2).values, clips.sort(dim=2).values)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_videos_are_zeros_with_a_reason(task: Task, tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x01" * 400)
    (tmp_path / "folder.mp4").mkdir()
    items = [*read_items(task.recipe().data, "train").items[:2], Item(tmp_path / "broken.mp4", 2)]
    items += [Item(tmp_path / "gone.mp4", 1), Item(tmp_path / "folder.mp4", 0)]
    clips = Clips(items, task.recipe().clip.spec(), Augment(num_sample=2))
    keys: list[list[Key]] = [[(0, (0, 1)), (2, (0, 1))], [(4, (0, 1)), (3, (0, 1)), (1, (0, 1))]]
    first, second = load(clips, keys, workers)
    assert (first.readable.tolist(), second.readable.tolist()) == ([True, False], [False, False, True])
    assert (first.place.tolist(), second.labels.tolist()) == ([0, 2], [[0, 0], [1, 1], [1, 1]])
    assert first.views.shape == (2, 2, 3, 4, 32, 32)
    assert not first.views[1].any()
    assert not second.views[:2].any()
    assert first.views[0].any()
    for reason in (first.reason[1], *second.reason[:2]):
        assert reason
        assert not reason.startswith(str(tmp_path))  # what names the video stands before it
        assert "\n" not in reason
        assert "Traceback" not in reason
    assert first.reason[0] == second.reason[2] == ""


def test_reasons_are_said_once_ten_times_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    items = [Item(Path(f"{number}.mp4"), 0) for number in range(30)]
    unreadable = Unreadable(items, "training")
    for places in ([4, 2], [3, 2], range(30), range(30)):
        unreadable.note(broken_batch(list(places)))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "no 2" in line] == ["unreadable, left out: 2.mp4: no 2"]
    assert len([line for line in lines if "left out" in line]) == 10
    assert lines[10:] == ["more training videos are unreadable; all are listed at the end"]
    assert unreadable.rows() == [{"path": f"{number}.mp4", "reason": f"no {number}"} for number in range(30)]
    unreadable.share()  # with nobody
    assert capsys.readouterr().err == ""
    assert "4.mp4: no 4" in str(unreadable.nothing_left("the list"))
    assert "data.root" in str(unreadable.nothing_left("the list"))


def broken_batch(places: list[int]) -> Sample:
    nothing = torch.zeros(len(places), 1)
    return Sample(nothing, nothing, torch.tensor(places), nothing[:, 0].bool(), [f"no {place}" for place in places])


@pytest.mark.parametrize(
    ("train", "val", "count"),
    [
        ([(None, None)], [(None, None), (5.0, 6.0)], 2),
        ([(0.0, 10.0)], [(10.0, 20.0), (9.5, 12.0), (20.0, None)], 1),
        ([(None, 3.0), (8.0, None)], [(3.0, 8.0), (None, 0.1), (100.0, 101.0)], 2),
    ],
)
def test_segments_that_do_not_overlap_are_other_videos(
    train: list[tuple[float | None, float | None]], val: list[tuple[float | None, float | None]], count: int
) -> None:
    parts = [
        [Item(Path("x/../a.mp4"), 0, *times) for times in train],
        [Item(Path("a.mp4"), 0, *times) for times in val],
    ]
    parts[0].append(Item(Path("b.mp4"), 0))
    said = leak(Data(train="x", val="y"), *parts)
    assert f"{count} of {len(val)} validation videos" in said
    assert leak(Data(train="x", val="y"), parts[0], [Item(Path("c.mp4"), 0)]) == ""
    with pytest.raises(ConfigError, match=r"the same .* videos\n.*data.train = x, data.val = y"):
        leak(Data(train="x", val="y"), parts[1], parts[1])


def test_parts_agree_on_the_classes(tmp_path: Path) -> None:
    for part, names in (("train", ["walk", "run", "sit"]), ("val", ["run", "sit"])):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "a.mp4").write_bytes(b"x")
    data = Data(train=str(tmp_path), val=str(tmp_path))
    train = read_items(data, "train")
    assert sorted(train.labels) == ["run", "sit", "walk"]
    val = read_items(data, "val", train.labels)
    assert val.labels == train.labels
    assert {item.path.parent.name: train.labels[item.label or 0] for item in val.items} == {"run": "run", "sit": "sit"}


def test_a_list_without_classes_is_refused_with_the_remedy(task: Task) -> None:
    bare = task.folder / "bare.csv"
    bare.write_text("train-0-0.mp4\ntrain-1-0.mp4\n", encoding="utf-8")
    data = task.recipe(f"data.val={bare.as_posix()}").data
    with pytest.raises(ConfigError, match=r"does not say the class of 2 of its 2 videos"):
        read_items(data, "val", LABELS)


GROWTH = """
import resource, sys
from pathlib import Path
from apt_edge.clip import ClipSpec
from apt_edge.video.lists import Item
from train.engine.data import Clips, load
from train.recipe import Augment

def resident(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if "VmRSS" in line).split()[1])

if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    items = [Item(path, 0) for path in sorted(folder.glob("*.mp4"))]
    clips = Clips(items, ClipSpec(frames=4, size=32, sampling="segments"), Augment(randaug="rand-m4-n2-mstd0.2-inc1"))
    loader = load(clips, [[(number, (0,))] for number in range(2000)], workers)
    batches = iter(loader)
    sizes = {}
    for number, sample in enumerate(batches, 1):
        assert sample.readable.all(), sample.reason
        if number in (500, 2000):
            sizes[number] = [resident(pid) for pid in ("self", *(w.pid for w in batches._workers if w.is_alive()))]
    print(*(after - before for before, after in zip(sizes[500], sizes[2000])))
"""


@pytest.mark.slow
def test_memory_does_not_grow_over_two_thousand_videos(task: Task, tmp_path: Path) -> None:
    video = (task.folder / "train-0-0.mp4").read_bytes()
    for number in range(2000):  # files of their own: what is remembered of a file would add up
        (tmp_path / f"{number:04d}.mp4").write_bytes(video)
    (tmp_path / "growth.py").write_text(GROWTH, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "growth.py"), str(tmp_path), "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    grown = [int(kilobytes) for kilobytes in done.stdout.split()]
    assert len(grown) == 2  # this process and its worker
    assert max(grown) < 12_000
