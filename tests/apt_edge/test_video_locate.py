"""Where the videos of a list are looked for, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_edge.video.lists import read_list
from tests.apt_edge.dataset_miniatures import lines

NAMES = ["air drumming/a.mp4", "zumba/b.mp4", "zumba/c.mp4"]


def listed(path, names=NAMES):
    lines(path, [f"{name} {i}" for i, name in enumerate(names)])
    return path


def touch(folder, names=NAMES):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "place",
    [
        ".",
        "videos",
        "train",
        "videos/train",
        "videos_train",
        "train_256",
        "..",
        "../rawframes",
        "../..",
        "../../UCF-101",
    ],
)
def test_beside_the_list_and_two_folders_up(tmp_path, place):
    path = listed(tmp_path / "data" / "set" / "lists" / "train.csv")
    base = touch((path.parent / place).resolve())
    videos = read_list(path, "train")
    assert [item.path.resolve() for item in videos.items] == [base / name for name in NAMES]
    said = [note for note in videos.notes if note.startswith("paths start at")]
    assert bool(said) == (place != ".")


def test_the_working_directory_comes_last(tmp_path, monkeypatch):
    path = listed(tmp_path / "far" / "from" / "here" / "train.csv")
    monkeypatch.chdir(touch(tmp_path / "work"))
    assert [item.path for item in read_list(path).items] == [Path(name) for name in NAMES]
    touch(path.parent)
    assert [item.path for item in read_list(path).items] == [path.parent / name for name in NAMES]


def test_a_root_that_is_given_is_the_only_one(tmp_path):
    path = listed(tmp_path / "lists" / "train.csv")
    touch(path.parent)
    root = touch(tmp_path / "elsewhere", NAMES[:1])
    videos = read_list(path, root=root)
    assert [item.path for item in videos.items] == [root / name for name in NAMES]
    assert videos.notes == ["66.7% of the videos are not there (2 of 3)"]
    assert [item.path for item in read_list(path, "train", root=touch(root / "train").parent).items][1] == (
        root / "train" / NAMES[1]
    )


def test_where_most_of_them_are(tmp_path):
    path = listed(tmp_path / "train.csv")
    touch(tmp_path, NAMES[:1])
    touch(tmp_path / "videos", NAMES[1:])
    videos = read_list(path)
    assert [item.path for item in videos.items][1:] == [tmp_path / "videos" / name for name in NAMES[1:]]
    assert "33.3% of the videos are not there (1 of 3)" in videos.notes


def test_one_video_elsewhere_moves_nothing(tmp_path):
    path = listed(tmp_path / "data" / "lists" / "train.csv")
    touch(tmp_path / "data", NAMES[:1])
    assert [item.path for item in read_list(path).items] == [path.parent / name for name in NAMES]
    touch(tmp_path / "data", NAMES[:2])
    assert [item.path for item in read_list(path).items] == [tmp_path / "data" / name for name in NAMES]
    touch(path.parent, NAMES[1:])
    assert [item.path for item in read_list(path).items] == [path.parent / name for name in NAMES]


def test_folders_without_pictures_are_no_videos(tmp_path):
    path = listed(tmp_path / "1" / "lists" / "val.txt", ["1.mp4", "2.mp4", "3.mp4"])
    touch(tmp_path, ["2/readme.md", "3/img_00001.jpg"])
    assert [item.path for item in read_list(path, root=tmp_path).items] == [
        *(tmp_path / name for name in ("1.mp4", "2.mp4", "3"))
    ]


def test_nothing_is_there(tmp_path):
    videos = read_list(listed(tmp_path / "train.csv"))
    assert [item.path for item in videos.items] == [tmp_path / name for name in NAMES]
    assert "none of the 3 videos is there: give the folder that their paths start at (--root)" in videos.notes


def test_another_extension(tmp_path):
    path = listed(tmp_path / "train.csv", ["a.avi", "b.avi", "c.b.avi", "frames_of_d.avi", "e.avi"])
    touch(tmp_path, ["a.mp4", "b.avi", "b.mp4", "c.b.webm", "frames_of_d/img_00001.jpg", "e.txt"])
    videos = read_list(path)
    found = [item.path.name for item in videos.items]
    assert found == ["a.mp4", "b.avi", "c.b.webm", "frames_of_d", "e.avi"]
    assert "files with another extension than the list's are taken: a.mp4 for a.avi" in videos.notes
    assert "20.0% of the videos are not there (1 of 5)" in videos.notes


def test_absolute_paths_stay(tmp_path):
    touch(tmp_path / "videos")
    path = listed(tmp_path / "lists" / "train.csv", [str(tmp_path / "videos" / name) for name in NAMES])
    videos = read_list(path)
    assert [item.path for item in videos.items] == [tmp_path / "videos" / name for name in NAMES]
    assert not any("paths start" in note or "not there" in note for note in videos.notes)


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    """A question for each of 300,000 files would take minutes on a network disk."""
    import os

    names = [f"zumba/{i}.mp4" for i in range(200)]
    path = listed(touch(tmp_path, names) / "train.csv", names)
    asked: list[str] = []
    real = os.listdir

    def counted(folder="."):
        asked.append(os.fspath(folder))
        return real(folder)

    monkeypatch.setattr(os, "listdir", counted)
    assert len(read_list(path).items) == 200
    assert asked.count(str(tmp_path / "zumba")) == 1


def test_a_folder_of_lists_that_is_a_link(tmp_path):
    real = listed(tmp_path / "disk" / "of" / "lists" / "train.csv").parent
    data = touch(tmp_path / "data")
    (data / "lists").symlink_to(real)
    assert [item.path for item in read_list(data / "lists" / "train.csv").items] == [data / name for name in NAMES]
