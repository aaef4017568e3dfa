"""Folders of class folders with and without parts, TAO's, and folders that hold several lists or none."""

from __future__ import annotations

import shutil

import pytest

from apt_edge.errors import ConfigError
from apt_edge.video.lists import read_list
from tests.apt_edge import dataset_miniatures as miniatures
from tests.apt_edge.dataset_miniatures import lines, write


def test_unsplit_class_folders(tmp_path):
    root = miniatures.class_folders(tmp_path).root
    train = root / "train"
    assert len(read_list(train, "val").items) == 9  # it says itself what it is
    assert any("is called train" in note for note in read_list(train, "val").notes)
    unsplit = train.rename(root / "all")
    for part in ("train", "val"):
        with pytest.raises(ConfigError, match=f"nothing says which videos are the {part} part") as caught:
            read_list(unsplit, part)
        assert caught.value.found == "abseiling, air drumming, zumba"
        assert "move the class folders into train/ and val/, or write train.csv" in caught.value.fix
    videos = read_list(unsplit, "test")
    assert len(videos.items) == 9
    assert any("has no parts: all of it is taken as the test part" in note for note in videos.notes)
    with pytest.raises(ConfigError, match=r"has no train part\n  found: parts: val\n  fix: "):
        read_list(root, "train")


def test_classes_of_folders_are_those_of_all_parts(tmp_path):
    root = miniatures.class_folders(tmp_path).root
    shutil.rmtree(root / "val" / "abseiling")
    videos = read_list(root, "val")
    assert videos.labels == miniatures.KINETICS
    assert {item.label for item in videos.items} == {1, 2}
    assert "the val part has no video of abseiling, the train part has" in videos.notes
    write(root / "labels.txt", "zumba\nabseiling\nair drumming\n")
    assert {item.label for item in read_list(root, "val").items} == {0, 2}


def clips(folder, *names):
    """Empty video files and, for names that end in /, folders of two pictures."""
    for name in names:
        for path in [f"{name}{i}.jpg" for i in range(2)] if name.endswith("/") else [name]:
            write(folder / path, "")
    return folder


def names_of(videos, root):
    return [item.path.relative_to(root).as_posix() for item in videos.items]


def test_videos_in_folders_below_a_class(tmp_path):
    root = clips(tmp_path, *(f"{part}/{path}" for part in ("train", "val") for path in ("a/g0/0.avi", "b/g0/1/2.avi")))
    assert names_of(read_list(root, "val"), root) == ["val/a/g0/0.avi", "val/b/g0/1/2.avi"]
    (root / "val" / "b" / "loop").symlink_to(root / "val")
    assert len(set(names_of(read_list(root, "train"), root))) == 2


def test_pictures_beside_videos_are_passed_over(tmp_path):
    root = clips(
        tmp_path,
        "train/a/0.mp4",
        "train/a/thumbs/",
        "train/b/1.mp4",
        "train/previews/x/",
        "train/b/1.srt",
        "val/a/2.mp4",
    )
    videos = read_list(root, "train")
    assert names_of(videos, root) == ["train/a/0.mp4", "train/b/1.mp4"]
    assert videos.labels == ["a", "b"]
    said = f"the clips are video files: 3 others are passed over, {root / 'train' / 'a' / 'thumbs'} for example"
    assert said in videos.notes


def test_each_folder_of_pictures_is_looked_at(tmp_path):
    root = clips(tmp_path, "train/a/0.mp4", "train/a/2/", "train/b/1/", "train/c/2/3/", "train/c/4/rgb/", "val/a/5/")
    (root / "train" / "a" / "1").mkdir()  # empty, and the first by name
    videos = read_list(root, "train")
    assert names_of(videos, root) == ["train/a/2", "train/b/1", "train/c/2/3", "train/c/4/rgb"]
    said = f"the clips are folders of pictures: 1 others are passed over, {root / 'train' / 'a' / '0.mp4'} for example"
    assert said in videos.notes


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_for_class_folders(tmp_path, first):
    numbers = [str(first + i) for i in range(12)]
    root = clips(tmp_path, *(f"{part}/{i}/0.mp4" for part in ("train", "val") for i in numbers))
    videos = read_list(root, "train")
    assert videos.labels == numbers
    assert [videos.labels[item.label] for item in videos.items] == [item.path.parent.name for item in videos.items]
    assert "no file names the classes: they are numbered in the order of their numbers" in videos.notes
    named = [f"{chr(ord('l') - i)} word" for i in range(12)]
    lines(root / "labels.txt", named)
    videos = read_list(root, "train")
    assert videos.labels == named
    assert {item.path.parent.name: item.label for item in videos.items} == {n: int(n) - first for n in numbers}
    assert any(note.startswith(f"classes are called by their numbers: {first} is 'l word'") for note in videos.notes)


def test_tao_pages(tmp_path):
    root = miniatures.tao(tmp_path).root
    text = f"dataset:\n  train_dataset_dir: {root}/train\n  label_map: {{walk: 1, fall_floor: 0}}\n"
    write(root / "other" / "spec.yml", f"{text}evaluate:\n  test_dataset_dir: {root}/test\n")
    videos = read_list(root / "other" / "spec.yml", "train")
    assert (videos.format, videos.labels, len(videos.items)) == ("tao", ["fall_floor", "walk"], 4)
    write(root / "spec.yaml", "label_map: {walk: 0}\n")
    with pytest.raises(
        ConfigError, match=r"label_map of .*spec\.yaml lacks a class\n  found: folders fall_floor\n  fix: "
    ):
        read_list(root)
    write(root / "other" / "spec.yml", "dataset:\n  train_dataset_dir: /nowhere\n")
    with pytest.raises(ConfigError, match=r"hold no class folders\n  found: /nowhere\n  fix: "):
        read_list(root / "other" / "spec.yml")


def test_several_lists_of_one_part(tmp_path):
    root = miniatures.videomae_csv(tmp_path).root
    shutil.copy(root / "train.csv", root / "k400_train.csv")
    assert len(read_list(root, "train").items) == 9  # train.csv by its plain name
    shutil.copy(root / "train.csv", root / "k600_train.csv")
    (root / "train.csv").unlink()
    with pytest.raises(ConfigError, match=r"several lists of the same part\n  found: k400_train\.csv, k600_train\.csv"):
        read_list(root, "train")


def test_splits_in_the_names_of_lists(tmp_path):
    for split in (1, 2, 3):
        lines(tmp_path / f"hmdb51_train_split_{split}_videos.txt", [f"brush_hair/{split}.avi 0"])
        lines(tmp_path / f"hmdb51_train_split_{split}_rawframes.txt", [f"brush_hair/{split} 30 0"])
    videos = read_list(tmp_path, "train", split=2)
    assert [item.path.name for item in videos.items] == ["2.avi"]
    with pytest.raises(ConfigError, match="has no val part"):
        read_list(tmp_path, "val", split=2)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(
        ConfigError, match=r"is no data set in a known layout\n  found: notes\.md\n  fix:   it holds tr"
    ):
        read_list(tmp_path)
    with pytest.raises(ConfigError, match="known layout of format hmdb51"):
        read_list(tmp_path, format="hmdb51")
