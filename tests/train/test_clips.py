"""The clips program: determinism, exact reversal, disjoint textures, honest folders."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from apt_edge.errors import ConfigError
from apt_edge.video.decode import probe, read_frames
from apt_edge.video.labels import read_labels
from apt_edge.video.lists import read_list
from train import clips
from train.check.lists import check_list
from train.synthetic.actions import FPS, LABELS, NUISANCES, PAIRS, SIDE, reverse, scene, write_script
from train.synthetic.scene import render_with_visibility

COUNT = {"train": 16, "val": 16}
TEXTS = ("train.csv", "val.csv", "labels.txt", "scripts.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "made"
    clips.make_clips(out, seed=3, **COUNT, workers=1)
    return out


def test_a_folder_holds_what_it_says(made):
    assert read_labels(made / "labels.txt") == LABELS
    for split in ("train", "val"):
        items = read_list(made / f"{split}.csv").items
        assert sorted(item.label for item in items) == list(range(16))
        for item in items:
            info = probe(item.path)
            assert 20 <= info.frames <= 36
            assert (info.width, info.height, info.fps) == (SIDE, SIDE, FPS)
            assert LABELS[item.label].replace(" ", "-") in item.path.name


def test_two_makes_agree_whatever_the_number_of_workers(made, tmp_path):
    record = clips.make_clips(tmp_path / "again", seed=3, **COUNT, workers=2)
    assert record == json.loads((made / "clips.json").read_text())
    for name in TEXTS:
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()
    item = read_list(made / "val.csv").items[5]
    other = read_list(tmp_path / "again" / "val.csv").items[5]
    wanted = [0, 7, 19]
    np.testing.assert_array_equal(read_frames(item.path, wanted), read_frames(other.path, wanted))


def test_scripts_are_fixed_for_a_seed():
    """A change here changes everybody's clips: raise VERSION with it."""
    ((name, script),) = clips._scripts(0, "train", 1)
    assert name == "0000-slide-right.mp4"
    assert (script.seed, script.frames, script.crf, script.background) == (2103381653, 21, 24, 402437)
    assert script.values == {"x": 0.4077, "y": 0.3962, "size": 0.2013, "angle": 2.3677, "travel": 0.5447}
    assert script.nuisances["noise"] == 2.1169


def test_a_script_carries_everything(made):
    lines = [json.loads(line) for line in (made / "scripts.jsonl").read_text().splitlines()]
    assert len(lines) == 32
    assert all(round(value, 4) == value for line in lines for value in line["values"].values())
    for item in read_list(made / "train.csv").items:
        (line,) = [entry for entry in lines if made / entry["clip"] == item.path]
        assert line["label"] == LABELS[item.label]
        assert line["frames"] == probe(item.path).frames


@pytest.mark.parametrize("pair", range(8))
def test_the_second_of_a_pair_is_the_first_backwards(pair):
    for seed in range(5):
        forward, backward = (
            write_script(label, "val", np.random.default_rng(seed)) for label in (2 * pair, 2 * pair + 1)
        )
        assert forward.to_dict() | {"label": ""} == backward.to_dict() | {"label": ""}
        expected, found = reverse(scene(forward)), scene(backward)
        for name in ("camera_x", "camera_y", "zoom", "brightness"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            np.testing.assert_array_equal(getattr(found, name), getattr(scene(forward), name)[::-1])
        moved = 0.0
        for ours, theirs, first in zip(found.tracks, expected.tracks, scene(forward).tracks, strict=True):
            np.testing.assert_array_equal(ours.texture, first.texture)
            for name in ("x", "y", "size", "angle", "opacity"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
                np.testing.assert_array_equal(getattr(ours, name), getattr(first, name)[::-1])
                moved += np.ptp(getattr(ours, name))
        assert moved > 0.1


def test_directions_are_those_of_the_screen():
    """y points down and angles grow clockwise."""
    rates = {}
    for label in range(0, 16, 2):
        tracks = scene(write_script(label, "train", np.random.default_rng(1))).tracks
        rates[LABELS[label]] = {
            name: max((np.subtract(*getattr(t, name)[[-1, 0]]) for t in tracks), key=abs)
            for name in ("x", "y", "size", "angle", "opacity")
        }
    assert rates["slide right"]["x"] > 0.4
    assert rates["rise"]["y"] < -0.4
    assert rates["approach"]["size"] > 0.1
    assert rates["rotate clockwise"]["angle"] > 1.5
    assert rates["appear"]["opacity"] == 1
    path = scene(write_script(LABELS.index("orbit clockwise"), "train", np.random.default_rng(1))).tracks
    hub, moon = path[-2:]
    turned = np.unwrap(np.arctan2(moon.y - hub.y, moon.x - hub.x))
    assert turned[-1] - turned[0] > 2.9


def test_what_hides_is_hidden_and_what_joins_meets():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        drawn = scene(write_script(LABELS.index("hide"), "train", rng))
        _, visible = render_with_visibility(drawn, SIDE, rng)
        assert visible[0, -2].sum() > 4  # pixels
        assert visible[-1, -2].sum() == pytest.approx(0, abs=1e-3)
        first, second = scene(write_script(LABELS.index("join"), "train", rng)).tracks[-2:]
        distance = np.hypot(first.x - second.x, first.y - second.y)
        assert distance[0] > 0.55
        assert distance[-1] < (first.size[0] + second.size[0]) / 2


def test_nothing_but_the_direction_tells_a_pair_apart():
    """Camera, position and flicker have no preferred direction: the ranges are symmetric about no motion."""
    for name in ("pan_x", "pan_y", "zoom"):
        low, high = NUISANCES[name]
        assert low == -high
    for pair in PAIRS:
        for name in ("x", "y"):
            low, high = pair.ranges[name]
            assert low + high == pytest.approx(1)


def test_train_and_val_share_no_texture(made):
    pictures = {"train": set(), "val": set()}
    for line in (made / "scripts.jsonl").read_text().splitlines():
        entry = json.loads(line)
        label = LABELS.index(entry["label"])
        index = int(entry["clip"].split("/")[1].split("-")[0])
        script = dict(clips._scripts(3, entry["split"], 16)).get(entry["clip"].split("/")[1])
        assert script is not None
        assert (script.label, index % 16) == (label, label)
        drawn = scene(script)
        pictures[entry["split"]] |= {t.texture.tobytes() for t in drawn.tracks} | {drawn.background.tobytes()}
    assert len(pictures["train"]) > 16
    assert not pictures["train"] & pictures["val"]


def test_a_finished_folder_is_reused_and_other_settings_are_refused(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    record = clips.make_clips(made, seed=3, **COUNT, workers=1)
    assert "reused" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert record["seed"] == 3
    with pytest.raises(ConfigError, match=r"other clips\n.*seed 3"):
        clips.make_clips(made, seed=4, **COUNT)


def test_an_interrupted_make_is_noticed_and_redone(made, tmp_path, monkeypatch, capsys):
    out, calls, render = tmp_path / "out", [], clips._render

    def stop_at_five(job):
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        render(job)

    monkeypatch.setattr(clips, "_render", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        clips.make_clips(out, seed=3, **COUNT, workers=1)
    assert not (out / "clips.json").exists()
    assert not (out / "train.csv").exists()
    monkeypatch.undo()
    (out / "train" / "9999-from-a-larger-make.mp4").touch()
    record = clips.make_clips(out, seed=3, **COUNT, workers=1)
    assert "interrupted" in capsys.readouterr().err
    assert record == json.loads((made / "clips.json").read_text())
    assert len(list((out / "train").iterdir())) == 16

    next((out / "val").glob("*.mp4")).unlink()
    clips.make_clips(out, seed=3, **COUNT, workers=1)
    assert "has changed" in capsys.readouterr().err
    assert check_list(out / "val.csv")["bad"] == []


def test_folders_and_counts_that_cannot_serve(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        clips.make_clips(tmp_path / "mine", **COUNT)
    with pytest.raises(ConfigError, match="is a file"):
        clips.make_clips(tmp_path / "file", **COUNT)
    with pytest.raises(ConfigError, match=r"16 classes\n.*use 96"):
        clips.make_clips(tmp_path / "new", train=100)
    with pytest.raises(ConfigError, match="seed"):
        clips.make_clips(tmp_path / "new", seed=-1)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "new").exists()


def test_the_command_line(made, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clips", "check", str(made)])
    clips.main()
    assert "32 videos, 0 bad" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["clips", "make", str(made), "--seed", "3", "--train", "16", "--val", "16"])
    clips.main()
    assert "16 training and 16 validation clips, 16 classes" in capsys.readouterr().out
