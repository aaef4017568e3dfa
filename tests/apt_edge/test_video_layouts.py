"""Data sets in their published layouts: given the root folder alone, every video gets its class and its part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import ConfigError
from apt_edge.video.lists import read_list
from tests.apt_edge import dataset_miniatures as miniatures
from tests.apt_edge.dataset_miniatures import lines


def told(videos, root):
    """{path below the root: class name}."""
    return {
        item.path.relative_to(root).as_posix(): None if item.label is None else videos.labels[item.label]
        for item in videos.items
    }


CASES = {
    "ucf101": ("ucf101", {}),
    "hmdb51": ("hmdb51", {}),
    "ssv2": ("ssv2", {}),
    "ssv2-new-names": ("ssv2", {"new_names": True}),
    "kinetics": ("kinetics400", {}),
    "kinetics-underscores": ("kinetics400", {"underscores": True}),
    "kinetics-flat": ("kinetics400", {"flat": True}),
    "jester": ("jester", {}),
    "videomae": ("videomae_csv", {}),
    "rawframes": ("mmaction_rawframes", {}),
    "folders": ("class_folders", {}),
    "table": ("table_csv", {}),
    "tao": ("tao", {}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes each miniature once: `made(case)`."""
    kept = {}

    def make(case):
        if case not in kept:
            name, settings = CASES[case]
            kept[case] = getattr(miniatures, name)(tmp_path_factory.mktemp(case), **settings)
        return kept[case]

    return make


@pytest.fixture
def copy(made, tmp_path):
    """Copies a miniature, to be changed: `copy(case)`."""

    def make(case):
        shutil.copytree(made(case).root, tmp_path / "copy")
        return tmp_path / "copy"

    return make


@pytest.mark.parametrize("case", CASES)
def test_the_root_is_enough(made, case):
    data = made(case)
    for part, truth in (("train", data.train), ("val", data.val)):
        videos = read_list(data.root, part)
        assert told(videos, data.root) == truth
        assert videos.labels == data.classes
        assert videos.format == case.split("-")[0]
        assert all(item.path.exists() for item in videos.items)


@pytest.mark.parametrize("case", CASES)
def test_from_inside_and_from_above(made, case, monkeypatch):
    data = made(case)
    for place, root in ((data.root, Path()), (data.root.parent, Path(data.root.name))):
        monkeypatch.chdir(place)
        videos = read_list(root, "train")
        assert {item.path.resolve() for item in videos.items} == {(data.root / path).resolve() for path in data.train}


@pytest.mark.parametrize("case", [case for case in CASES if case != "folders"])
def test_damaged_lists_are_read_or_refused(copy, case):
    root = copy(case)
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".txt", ".csv", ".json", ".yaml")]
    rng = np.random.default_rng(list(case.encode()))
    refused = []
    for _ in range(40):
        path = files[rng.integers(len(files))]
        good = path.read_bytes()
        first, last = sorted(rng.integers(len(good), size=2))
        noise = [b"", b",", b'"', b"\n", b"\r", b"-1 ", b"{", b"]", b"\xff", b"\0", b"null", b"9" * 20][
            rng.integers(12)
        ]
        path.write_bytes(good[:first] + noise + good[min(last, first + 20) :])
        for place in (root, path):
            try:
                assert read_list(place, "train").items
            except ConfigError as error:
                refused.append(error)
        path.write_bytes(good)
    assert 0 < len(refused) < 80
    assert all(error.fix for error in refused)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("ucf101", "UCF101 has no val part: the test part of split 1"),
        ("hmdb51", "HMDB51 has no val part"),
        ("tao", "has no val part: its test part is taken"),
    ],
)
def test_a_test_part_stands_for_val_with_a_note(made, case, said):
    data = made(case)
    assert any(said in note for note in read_list(data.root, "val").notes)
    test = read_list(data.root, "test")
    assert not any("has no" in note for note in test.notes)
    assert test.items == read_list(data.root, "val").items


@pytest.mark.parametrize(
    ("case", "file", "part"),
    [
        ("ucf101", "ucfTrainTestlist/trainlist01.txt", "train"),
        ("ucf101", "ucfTrainTestlist/testlist03.txt", "val"),
        ("hmdb51", "testTrainMulti_7030_splits/cartwheel_test_split1.txt", "train"),
        ("ssv2", "labels/something-something-v2-validation.json", "val"),
        ("kinetics", "val.csv", "val"),
        ("kinetics-flat", "annotations/train.csv", "train"),
        ("jester", "jester-v1-train.csv", "train"),
        ("rawframes", "ucf101_val_split_1_rawframes.txt", "val"),
        ("table", "data.csv", "train"),
        ("tao", "spec.yaml", "train"),
    ],
)
def test_a_list_of_a_data_set_is_enough(made, case, file, part):
    data = made(case)
    videos = read_list(data.root / file, part)
    assert told(videos, data.root) == (data.train if part == "train" else data.val)
    assert (videos.labels, videos.format) == (data.classes, case.split("-")[0])
    forced = read_list(data.root / file, part, format=videos.format)
    assert (forced.items, forced.labels) == (videos.items, videos.labels)


def test_ucf101_without_class_folders_and_converted(copy):
    root = copy("ucf101")
    (root / "UCF-101").rename(root / "videos")
    for path in list((root / "videos").glob("*/*.avi")):
        path.rename(root / "videos" / path.with_suffix(".mp4").name)
    videos = read_list(root, "train")
    assert all(item.path.exists() and item.path.suffix == ".mp4" for item in videos.items)
    assert {videos.labels[item.label] for item in videos.items} == set(miniatures.UCF101)
    assert any("another extension than the list's are taken: v_ApplyEyeMakeup" in note for note in videos.notes)
    (root / "ucfTrainTestlist" / "classInd.txt").unlink()  # the published order is alphabetical
    assert read_list(root, "val").labels == miniatures.UCF101


def test_ucf101_in_one_folder(copy, tmp_path):
    root, one = copy("ucf101"), tmp_path / "one"
    one.mkdir()
    for path in [*root.rglob("*.txt"), *root.rglob("*.avi")]:
        shutil.copy(path, one / path.name)
    videos = read_list(one, "val")
    assert len(videos.items) == 6
    assert all(item.path.exists() for item in videos.items)
    lines(one / "trainlist01.txt", ["v_ApplyEyeMakeup_g08_c01.avi 1", "v_HandStandPushups_g08_c01.avi 3"])
    assert [item.label for item in read_list(one, "train").items] == [0, 2]


def test_a_split_that_is_not_there(copy, made):
    root = copy("hmdb51")
    for path in root.rglob("*_split3.txt"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"has no file of split 3\n  found: splits 1, 2\n  fix:   .*--split"):
        read_list(root, split=3)
    root = made("ucf101").root
    with pytest.raises(
        ConfigError, match=r"has no testlist07\.txt\n  found: lists of splits 1, 2, 3\n  fix: .*--split"
    ):
        read_list(root, split=7)


def test_the_splits_of_hmdb51_differ(made):
    root = made("hmdb51").root
    kept = [told(read_list(root, "train", split=split), root) for split in (1, 2, 3)]
    assert [len(part) for part in kept] == [9, 9, 9]
    assert kept[0] != kept[1] != kept[2]
    for split in (1, 2, 3):
        assert not set(kept[split - 1]) & set(told(read_list(root, "test", split=split), root))


def test_a_damaged_line_of_hmdb51_is_named(copy):
    root = copy("hmdb51")
    lines(root / "testTrainMulti_7030_splits" / "cartwheel_test_split1.txt", ["a.avi 1 ", "b.avi 7 "])
    with pytest.raises(ConfigError, match=r"cartwheel_test_split1\.txt, line 2 is not of the form `video\.avi 1`"):
        read_list(root)


def test_something_something_tests(copy):
    root = copy("ssv2")
    videos = read_list(root, "test")
    assert {item.label for item in videos.items} == {None}
    assert len(videos.labels) == 4
    truth = told(read_list(root, "val"), root)
    answers = [f"{path.split('/')[1].removesuffix('.webm')};{name}" for path, name in truth.items()]
    lines(root / "labels" / "test-answers.csv", answers)
    assert told(read_list(root, "test"), root) == truth


def test_something_something_lists_that_do_not_fit(copy):
    root = copy("ssv2")
    path = root / "labels" / "something-something-v2-train.json"
    entries = json.loads(path.read_text())
    entries[1]["template"] = "Eating [something]"
    path.write_text(json.dumps(entries))
    with pytest.raises(
        ConfigError, match=r"has 1 classes that .*v2-labels\.json does not name\n  found: 'Eating someth"
    ):
        read_list(root, "train")
    del entries[1]["template"]
    path.write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"has 1 videos without a template\n  found: the first is 78688\.webm"):
        read_list(root, "train")
    path.write_text("{}")
    with pytest.raises(ConfigError, match="is no list of Something-Something v2"):
        read_list(path, format="ssv2")


def test_jester_lines(copy):
    root = copy("jester")
    assert {item.label for item in read_list(root, "test").items} == {None}
    lines(root / "jester-v1-train.csv", ["34870;Swiping Left", "34871"])
    with pytest.raises(ConfigError, match=r"line 2 is not of the form `id;class`\n  found: '34871'\n  fix: "):
        read_list(root, "train")


def test_kinetics_counts_what_is_missing(tmp_path):
    data = miniatures.kinetics400(tmp_path, missing=1)
    videos = read_list(tmp_path, "val")
    assert told(read_list(tmp_path, "train"), tmp_path) == data.train
    assert told(videos, tmp_path) == data.val
    assert not any("not there" in note for note in videos.notes)
    assert "33.3% of the videos are not there (3 of 9)" in read_list(tmp_path, "train").notes
    test = read_list(tmp_path, "test")
    assert test.labels == miniatures.KINETICS
    assert {item.label for item in test.items} == {None}
    assert any("none of the 6 videos is there" in note and "--root" in note for note in test.notes)


def test_kinetics_without_its_train_list(copy):
    root = copy("kinetics")
    (root / "train.csv").unlink()
    videos = read_list(root / "val.csv")
    assert videos.labels == miniatures.KINETICS
    assert any("no train list beside val.csv" in note for note in videos.notes)
    text = (root / "val.csv").read_text()
    (root / "val.csv").write_text(text + "zumba,abc,,10,validate\n")
    with pytest.raises(ConfigError, match=r"val\.csv, line 8 lacks an id or times\n  found: zumba,abc,,10"):
        read_list(root / "val.csv")


def test_kinetics_with_all_parts_in_one_list(copy):
    root = copy("kinetics")
    texts = [(root / f"{part}.csv").read_text().splitlines(keepends=True) for part in ("train", "val")]
    kept = {part: told(read_list(root, part), root) for part in ("train", "val")}
    for part in ("train", "val", "test"):
        (root / f"{part}.csv").unlink()
    alone = "pole vault,abc,1,11,validate\n"  # classes are those of the train part
    (root / "kinetics400.csv").write_text("".join([*texts[0], *texts[1][1:]]))
    for part, truth in kept.items():
        for place in (root, root / "kinetics400.csv"):
            videos = read_list(place, part)
            assert told(videos, root) == truth
            assert videos.labels == miniatures.KINETICS
    (root / "kinetics400.csv").write_text("".join(texts[0]))  # one part stands for no other, but for itself
    assert read_list(root, "val").format == "folders"
    assert told(read_list(root / "kinetics400.csv", "val"), root) == kept["train"]
    (root / "kinetics400.csv").write_text("".join([*texts[0], *texts[1][1:], alone]))
    with pytest.raises(ConfigError, match=r"1 classes that .* does not name\n  found: 'pole vault'"):
        read_list(root, "val")


def test_the_note_on_spellings_shows_one_that_differs(made):
    notes = read_list(made("kinetics-underscores").root, "val").notes
    (note,) = [note for note in notes if note.startswith("files are named as")]
    assert note.startswith("files are named as air_drumming/")
    assert "the list says air drumming/" in note


def test_bare_ids_lie_in_class_folders(copy):
    root = copy("kinetics")
    ids = [path.name.rsplit("_", 2)[0] for path in sorted((root / "val").glob("*/*.mp4"))]
    (root / "train.csv").unlink()
    lines(root / "kinetics_val_list.txt", [f"{identity} 300 {i // 2}" for i, identity in enumerate(ids)])
    videos = read_list(root / "kinetics_val_list.txt")
    assert [item.path.parent.name for item in videos.items] == ["abseiling"] * 2 + ["air drumming"] * 2 + ["zumba"] * 2
    assert any("known by their ids alone" in note for note in videos.notes)
