"""Lists without a header, as people write them: lines, class numbers and names, and errors that name the line."""

from __future__ import annotations

import gzip

import pytest

from apt_edge.errors import ConfigError
from apt_edge.video.labels import read_labels
from apt_edge.video.lists import FORMATS, Item, VideoList, match_labels, read_list


def written(folder, text, name="train.csv", labels=None):
    """The list read from a file of this text, with a labels.txt beside it."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(text.encode())
    if labels:
        (folder / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    return read_list(folder / name)


def told(videos, folder):
    return [(item.path.relative_to(folder).as_posix(), item.label) for item in videos.items]


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 3", "a.mp4", 3),
        ("a.mp4,3", "a.mp4", 3),
        ("a.mp4;3", "a.mp4", 3),
        ("a.mp4 , 3 ", "a.mp4", 3),
        ("a.mp4\t12\r", "a.mp4", 12),
        ("air drumming/my clip 2.mp4 0", "air drumming/my clip 2.mp4", 0),
        ("a, b.mp4,7", "a, b.mp4", 7),
        ('"a, b.mp4",7', "a, b.mp4", 7),
        ("vidéos/走る.mp4 1", "vidéos/走る.mp4", 1),
        ("#20_Rhythm_clap_u_nm_np1_le_goo_0.avi 5", "#20_Rhythm_clap_u_nm_np1_le_goo_0.avi", 5),
    ],
)
def test_lines(tmp_path, line, path, label):
    videos = written(tmp_path, f"{line}\n")
    assert told(videos, tmp_path) == [(path, label)]
    assert videos.labels == [str(i) for i in range(label + 1)]
    assert videos.format == "videomae"


def test_order_blank_lines_byte_order_mark_and_absolute_paths(tmp_path):
    (tmp_path / "l.txt").write_text("\ufeffb.mp4 1\r\n\r\n/data/a.mp4 0\r\n", encoding="utf-8")
    items = read_list(str(tmp_path / "l.txt")).items
    assert [(str(i.path), i.label) for i in items] == [(str(tmp_path / "b.mp4"), 1), ("/data/a.mp4", 0)]


def test_gzipped(tmp_path):
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(b"a.mp4 0\nb.mp4 1\n"))
    assert told(read_list(tmp_path / "train.csv.gz"), tmp_path) == [("a.mp4", 0), ("b.mp4", 1)]
    (tmp_path / "val.csv.gz").write_bytes(b"a.mp4 0\nb.mp4 1\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_list(tmp_path / "val.csv.gz")


@pytest.mark.parametrize("line", ["a.mp4", "a, b.mp4", "a.mp4 -1", "3", "a.mp4 1.5", ", 3"])
def test_a_malformed_line_is_named(tmp_path, line):
    with pytest.raises(ConfigError, match="line 3") as caught:
        written(tmp_path, f"a.mp4 0\n\n{line}\n")
    assert line in caught.value.found
    assert caught.value.fix


@pytest.mark.parametrize("reader", [read_list, read_labels])
def test_files_that_cannot_serve(tmp_path, reader):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "zeros.txt").write_bytes(b"a\0b")
    for name, reason in {
        "missing.txt": "does not exist",
        "empty.txt": "no video|no class",
        "binary.txt": "UTF-8",
        "zeros.txt": "is not text",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            reader(tmp_path / name)


def test_what_is_no_list(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"\0")
    with pytest.raises(ConfigError, match=r"clip\.mp4 is no list of videos\n.*\n  fix:   write its path into a list"):
        read_list(tmp_path / "clip.mp4")
    with pytest.raises(
        ConfigError, match=r"there is no format 'coco'\n  fix:   choose one of: videomae, mmaction, raw"
    ):
        read_list(tmp_path / "clip.mp4", format="coco")
    with pytest.raises(ConfigError, match=r"there is no part 'dev'\n  fix:   choose one of: train, val, test"):
        read_list(tmp_path / "clip.mp4", part="dev")
    with pytest.raises(ConfigError, match="is no folder"):
        read_list(tmp_path / "clip.mp4", root=tmp_path / "absent")


def test_forced_formats(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("clip 2 0\nclip 7 1\n")  # folders "clip 2" and "clip 7", or 2 and 7 frames
    assert [(i.path.name, i.label, i.frames) for i in read_list(path).items] == [("clip", 0, 2), ("clip", 1, 7)]
    assert told(read_list(path, format="videomae"), tmp_path) == [("clip 2", 0), ("clip 7", 1)]
    for name in set(FORMATS) - {"videomae", "mmaction", "rawframes", "ucf101"}:
        with pytest.raises(ConfigError, match="is no ") as caught:
            read_list(path, format=name)
        assert caught.value.found
        assert caught.value.fix
    with pytest.raises(ConfigError, match="line 1 is not of the form `Class/v_Class"):
        read_list(path, format="ucf101")


def test_raw_frames(tmp_path):
    videos = written(tmp_path, "frames/my 1 58 140\nframes/2 7 0\n")
    assert videos.format == "rawframes"
    assert [(i.path.name, i.label, i.frames) for i in videos.items] == [("my 1", 140, 58), ("2", 0, 7)]
    assert [i.label for i in written(tmp_path, "frames/1 58 -1\n").items] == [None]
    (tmp_path / "l.txt").write_text("frames/1 58 140\nframes/2 0\n")
    with pytest.raises(ConfigError, match=r"line 2 is not of the form `folder frames label`"):
        read_list(tmp_path / "l.txt", format="rawframes")
    with pytest.raises(ConfigError, match="counted from 0"):
        written(tmp_path, "frames/1 58 -3\n")


def test_unlabelled(tmp_path):
    for text in (
        "air drumming/a.mp4\nb.webm\n",
        "air drumming/a.mp4 -1\nb.webm -1\n",
        "air drumming/a.mp4 0 -1\nb.webm 0 -1\n",
    ):
        videos = written(tmp_path, text)
        assert told(videos, tmp_path) == [("air drumming/a.mp4", None), ("b.webm", None)]
        assert videos.labels == []
        assert {item.frames for item in videos.items} == {None}
    assert written(tmp_path, "a.mp4\n", labels=["x", "y"]).labels == ["x", "y"]


@pytest.mark.parametrize("text", ["a.mp4 1\nb.mp4 1 5 9\n", "a.mp4 1 5\n", "b.mp4 1 5 9\na.mp4 1 5\n", "a.mp4,1,5\n"])
def test_several_classes_of_a_video_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="gives a video several classes") as caught:
        written(tmp_path, text)
    assert "one class a video" in caught.value.fix


def test_mmaction_names(tmp_path):
    for name in (
        "ucf101_train_split_1_videos.txt",
        "sthv2_train_list_videos.txt",
        "kinetics400_val_list_videos.txt",
    ):
        videos = written(tmp_path / name[:5], "dir/a.mp4 0\ndir/b.mp4 1\n", name)
        assert (videos.format, [item.label for item in videos.items]) == ("mmaction", [0, 1])


@pytest.mark.parametrize("mark", [" ", "\t", ",", ";", " , "])
def test_names_for_labels(tmp_path, mark):
    videos = written(tmp_path / "a", f"a b.mp4{mark}zumba\nc.mp4{mark}air drumming\n")
    assert [videos.labels[item.label] for item in videos.items] == ["zumba", "air drumming"]
    assert videos.labels == ["air drumming", "zumba"]
    assert any("alphabetical" in note for note in videos.notes)
    videos = written(
        tmp_path / "b", f"a.mp4{mark}Zumba\nc.mp4{mark}air_drumming\n", labels=["zumba", "air drumming", "x"]
    )
    assert [item.label for item in videos.items] == [0, 1]
    with pytest.raises(
        ConfigError, match=r"has 1 classes that .*labels\.txt does not name\n  found: 'polka'; named are 'z"
    ):
        written(tmp_path / "b", f"a.mp4{mark}polka\nc.mp4{mark}zumba\n")


def test_classes_that_count_from_one(tmp_path):
    videos = written(tmp_path, "a.mp4 1\nb.mp4 3\nc.mp4 2\n", labels=["x", "y", "z"])
    assert [item.label for item in videos.items] == [0, 2, 1]
    assert "classes count from 1: 1 is taken off" in videos.notes
    # The val part lacks a class; the train part beside it says where the classes begin.
    videos = written(tmp_path, "a.mp4 1\nb.mp4 2\n", name="val.csv")
    assert [item.label for item in videos.items] == [0, 1]
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    assert [item.label for item in written(tmp_path, "a.mp4 1\nb.mp4 2\n", name="val.csv").items] == [1, 2]
    videos = written(tmp_path / "far" / "away", "a.mp4 1\nb.mp4 3\n")
    assert [item.label for item in videos.items] == [1, 3]
    assert videos.labels == ["0", "1", "2", "3"]
    assert videos.notes[0] == (
        "no class 0 and no class names: 4 classes are trained, and class 0 stays empty; if classes count from 1, "
        "a label file of lines `1 name`, as classInd.txt has them, makes them count from 1 (--labels)"
    )


@pytest.mark.parametrize(("train", "val"), [("train.csv", "val.csv"), ("train_list.txt", "validation.csv")])
def test_parts_agree_where_classes_begin(tmp_path, train, val):
    """The val part lacks the last class: whatever the lists are called, and from the root too."""
    text = "b.mp4 1\nc.mp4 2\n"
    written(tmp_path, f"a.mp4 3\n{text}", train, ["x", "y", "z"])
    assert [item.label for item in written(tmp_path, text, val).items] == [0, 1]
    assert [item.label for item in read_list(tmp_path, "val").items] == [0, 1]
    assert [item.label for item in read_list(tmp_path, "train").items] == [2, 0, 1]
    written(tmp_path, f"a.mp4 0\n{text}", train)
    videos = read_list(tmp_path, "val")
    assert [item.label for item in videos.items] == [1, 2]
    assert "this part has no video of class 0, 'x', another has: classes count from 0" in videos.notes
    (tmp_path / "labels.txt").unlink()
    note = "this part has no video of class 0, another has: classes count from 0"
    assert note in read_list(tmp_path, "val").notes


def test_where_classes_begin_is_assumed_or_forced(tmp_path):
    text = "b.mp4 1\nc.mp4 2\n"
    videos = written(tmp_path, text, labels=["x", "y", "z"])
    assert [item.label for item in videos.items] == [1, 2]
    note = next(note for note in videos.notes if "no video of class 0" in note)
    assert "none of class 3: classes are taken to count from 0, so that 1 is 'y'; if they count from 1, a lab" in note
    lines = {"classInd.txt": "1 x\n2 y\n3 z\n", "counted.json": '{"x": 1, "y": 2, "z": 3}'}
    for name, content in lines.items():
        (tmp_path / name).write_text(content)
        videos = read_list(tmp_path / "train.csv", labels=tmp_path / name)
        assert [item.label for item in videos.items] == [0, 1]
        assert "classes count from 1: 1 is taken off" in videos.notes
    (tmp_path / "train.csv").write_text(f"a.mp4 0\n{text}")  # mmaction2's lists beside UCF101's classInd.txt
    videos = read_list(tmp_path / "train.csv", labels=tmp_path / "classInd.txt")
    assert [item.label for item in videos.items] == [0, 1, 2]


def test_one_word_makes_all_classes_names(tmp_path):
    text = "".join(f"{i}.mp4 57\n" for i in range(300))
    videos = written(tmp_path, f"{text}a.mp4 walk\n")
    assert (videos.labels, videos.items[0].label, videos.items[-1].label) == (["57", "walk"], 0, 1)
    assert videos.notes[:2] == [
        "line 301 has a word for its class: numbers are taken as names, too",
        "no file names the classes: they are numbered in alphabetical order",
    ]


def test_class_numbers_are_checked_against_the_names(tmp_path):
    with pytest.raises(ConfigError, match=r"uses class 3 \(b\.mp4\), and there are 3 class names") as caught:
        written(tmp_path, "a.mp4 0\nb.mp4 3\n", labels=["x", "y", "z"])
    assert "labels.txt" in caught.value.found
    assert "count from 0" in caught.value.fix


def test_labels_that_are_given_go_first(tmp_path):
    written(tmp_path, "a.mp4 0\nb.mp4 1\n", labels=["x", "y"])
    (tmp_path / "mine.txt").write_text("left\nright\nup\n")
    assert read_list(tmp_path / "train.csv", labels=tmp_path / "mine.txt").labels == ["left", "right", "up"]


def listed(labels, names):
    return VideoList([Item(tmp, label) for tmp, label in labels], names, "videomae", [])


def test_classes_are_matched_by_name(tmp_path):
    items = [(tmp_path / "a.mp4", 0), (tmp_path / "b.mp4", 1), (tmp_path / "c.mp4", None)]
    videos = listed(items, ["Air_Drumming", "Pushing [something] to 'x'"])
    names = ["zumba", "pushing something to x", "air drumming"]
    assert [item.label for item in match_labels(videos, names).items] == [2, 1, None]
    assert match_labels(videos, names).labels == names
    assert match_labels(videos, videos.labels) == videos
    with pytest.raises(ConfigError, match="2 classes of the list are not among the 6 that are wanted") as caught:
        match_labels(videos, list("abcdef"))
    assert "'Air_Drumming'" in caught.value.found
    assert caught.value.found.endswith("wanted are 'a', 'b', 'c', 'd', 'e', ...")
    assert "label file" in caught.value.fix
    # A class without videos may differ.
    assert [item.label for item in match_labels(listed(items[:1], videos.labels), ["air drumming"]).items] == [0]


def test_class_names_that_are_numbers_are_matched_as_names(tmp_path):
    items = [(tmp_path / "a.mp4", 1), (tmp_path / "b.mp4", 2), (tmp_path / "c.mp4", 3)]
    alphabetical = ["0", "1", "10", "11", "2", "3"]
    videos = match_labels(listed(items, ["0", "1", "2", "3"]), alphabetical)
    assert [item.label for item in videos.items] == [1, 4, 5]
    assert videos.notes == ["the list's class numbers are taken as the names '0', '1', '10', '11', '2', ..."]
    back = match_labels(VideoList(videos.items, alphabetical, "folders", []), [str(i) for i in range(12)])
    assert ([item.label for item in back.items], back.notes) == ([1, 2, 3], [])
    with pytest.raises(ConfigError, match="1 classes of the list are not among the 3 that are wanted"):
        match_labels(listed([(tmp_path, 0), (tmp_path, 1)], ["0", "1"]), ["1", "2", "3"])


def test_classes_without_names_keep_their_numbers(tmp_path):
    videos = listed([(tmp_path / "a.mp4", 0), (tmp_path / "b.mp4", 2)], ["0", "1", "2"])
    numbered = match_labels(videos, ["x", "y", "z", "more"])
    assert (numbered.items, numbered.labels) == (videos.items, ["x", "y", "z", "more"])
    assert numbered.notes == [
        "the list has no class names: its numbers are taken as the 4 classes 'x', 'y', 'z', 'more'"
    ]
    with pytest.raises(
        ConfigError, match=r"uses class 2, and there are 2 classes\n  found: .*b\.mp4\n  fix:   classes co"
    ):
        match_labels(videos, ["x", "y"])
    named = listed([(tmp_path / "a.mp4", 0)], ["x", "y"])
    assert match_labels(named, ["0", "1"]).items == named.items
    assert match_labels(named, ["0", "1"]).notes == [
        "classes without names are wanted: 'x', 'y' are taken as the numbers 0 to 1"
    ]
    with pytest.raises(ConfigError, match="2 classes with names, and 3 without names"):
        match_labels(named, ["0", "1", "2"])


def test_a_segment_survives_matching(tmp_path):
    item = Item(tmp_path / "a.mp4", 0, 1.5, 2.5, 30)
    matched = match_labels(VideoList([item], ["b"], "table", []), ["a", "b"])
    assert matched.items == [Item(item.path, 1, 1.5, 2.5, 30)]
