"""Tables of videos: CSV and TSV with a header, JSON lines, JSON; segments, parts, and errors that name the line."""

from __future__ import annotations

import json

import pytest

from apt_edge.errors import ConfigError
from apt_edge.video.lists import read_list


def written(folder, name, text):
    (folder / name).write_bytes(text.encode())
    return read_list(folder / name)


def told(videos, folder):
    return [(item.path.relative_to(folder).as_posix(), item.label) for item in videos.items]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'path,label\na b.mp4,1\n"c, d.mp4",0\n'),
        ("t.csv", "\ufeffPath;Label\r\na b.mp4;1\r\nc, d.mp4;0\r\n"),
        ("t.tsv", "label\tvideo_path\n1\ta b.mp4\n0\tc, d.mp4\n"),
        ("t.csv", "path label\na b.mp4 1\nc, d.mp4 0\n"),
        ("t.csv", 'file_name,label,label_id\na b.mp4,1,9\n"c, d.mp4",0,9\n'),
        ("metadata.jsonl", '{"file_name": "a b.mp4", "label": 1}\n\n{"file_name": "c, d.mp4", "label": "0"}\n'),
        ("t.json", json.dumps([{"video": "a b.mp4", "label": 1}, {"video": "c, d.mp4", "label": 0}])),
        (
            "t.json",
            json.dumps({"version": 1, "data": [{"path": "a b.mp4", "label": 1}, {"path": "c, d.mp4", "label": 0}]}),
        ),
        (
            "ucf101_train_split_1_videos.json",
            json.dumps([{"filename": "a b.mp4", "label": [1]}, {"filename": "c, d.mp4", "label": [0]}]),
        ),
    ],
)
def test_forms(tmp_path, name, text):
    videos = written(tmp_path, name, text)
    assert told(videos, tmp_path) == [("a b.mp4", 1), ("c, d.mp4", 0)]
    assert (videos.format, videos.labels) == ("table", ["0", "1"])


def test_frames_of_mmaction(tmp_path):
    entries = [{"frame_dir": "a/v_1", "total_frames": 163, "label": [2]}]
    (item,) = written(tmp_path, "hmdb51_train_split_1_rawframes.json", json.dumps(entries)).items
    assert (item.path, item.frames, item.label) == (tmp_path / "a/v_1", 163, 2)


def test_names_and_segments(tmp_path):
    text = "path,label,start,end\na.mp4,zumba,0,2.5\na.mp4,air drumming,2.5,\nb.mp4,zumba,,\n"
    videos = written(tmp_path, "t.csv", text)
    assert videos.labels == ["air drumming", "zumba"]
    assert [(i.label, i.start, i.end) for i in videos.items] == [(1, 0.0, 2.5), (0, 2.5, None), (1, None, None)]


def test_one_name_makes_all_labels_names(tmp_path):
    assert written(tmp_path, "t.csv", "path,label\na.mp4,1\nb.mp4,walk\n").labels == ["1", "walk"]


def test_whole_floats_are_numbers(tmp_path):
    """A table with an empty cell is written with 1.0 for 1."""
    text = "path,label,split\na.mp4,1.0,train\nb.mp4,0.0,train\nc.mp4,-1.0,test\nd.mp4,,test\n"
    (tmp_path / "t.csv").write_text(text)
    videos = read_list(tmp_path / "t.csv", "train")
    assert ([item.label for item in videos.items], videos.labels) == ([1, 0], ["0", "1"])
    assert [item.label for item in read_list(tmp_path / "t.csv", "test").items] == [None, None]
    assert written(tmp_path, "u.csv", "path,label\na.mp4,1.0\nb.mp4,1.5\n").labels == ["1.0", "1.5"]


def test_all_parts_of_a_table_say_where_classes_begin(tmp_path):
    (tmp_path / "labels.txt").write_text("x\ny\nz\n")
    text = "path,label,split\na.mp4,1,train\nb.mp4,3,train\nc.mp4,1,val\nd.mp4,2,val\n"
    (tmp_path / "t.csv").write_text(text)
    assert [item.label for item in read_list(tmp_path / "t.csv", "train").items] == [0, 2]
    assert [item.label for item in read_list(tmp_path / "t.csv", "val").items] == [0, 1]


@pytest.mark.parametrize("content", ["path,label\n{}.mp4,walk\n", "{}.mp4,walk\n"])
def test_tables_that_are_called_labels(tmp_path, content):
    for part in ("train", "val"):
        (tmp_path / f"{part}_labels.csv").write_text(content.format(part))
    assert told(read_list(tmp_path, "train"), tmp_path) == [("train.mp4", 0)]
    videos = read_list(tmp_path, "val")
    assert (told(videos, tmp_path), videos.labels) == ([("val.mp4", 0)], ["walk"])


def test_a_column_chooses_the_part(tmp_path):
    text = "path,label,split\na.mp4,walk,train\nb.mp4,run,training\nc.mp4,run,validation\nd.mp4,,test\n"
    (tmp_path / "t.csv").write_text(text)
    found = {part: told(read_list(tmp_path / "t.csv", part), tmp_path) for part in ("train", "val", "test")}
    assert found == {"train": [("a.mp4", 1), ("b.mp4", 0)], "val": [("c.mp4", 0)], "test": [("d.mp4", None)]}
    assert read_list(tmp_path, "val").labels == ["run", "walk"]  # of all parts, and from the folder as well
    (tmp_path / "t.csv").write_text("path,label,split\na.mp4,walk,train\n")
    with pytest.raises(ConfigError, match=r"t\.csv has no val part\n  found: parts: train\n  fix: "):
        read_list(tmp_path / "t.csv", "val")


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        (
            "t.csv",
            "path,label\na.mp4,1\nb, c.mp4,2\n",
            r"line 3 has 3 cells, the header has 2\n  found: .*\n  fix: .*quotes",
        ),
        ("t.csv", "path,label\na.mp4,1\n,2\n", r"line 3 has no path\n  fix: "),
        ("t.csv", "path,label\na.mp4,1\nb.mp4,\n", r"line 3 has no class, and other lines have one\n  fix: "),
        ("t.csv", "path,label,start,end\na.mp4,1,5,2\n", r"line 2 ends before it starts\n  found: start 5 s, end 2 s"),
        (
            "t.csv",
            "path,label,start\na.mp4,1,soon\n",
            r"line 2: start is no time\n  found: 'soon'\n  fix:   give seconds",
        ),
        ("t.csv", "path,label,end\na.mp4,1,-3\n", r"line 2: end is no time"),
        ("t.csv", "path,label,end\na.mp4,1,inf\n", r"line 2: end is no time"),
        ("t.jsonl", '{"path": "a.mp4"}\n{"path"\n', r"line 2 is not JSON\n  found: "),
        ("t.jsonl", '{"path": "a.mp4"}\n[1]\n', r"line 2 is no object\n  found: '\[1\]'\n  fix: "),
        ("t.json", "{", r"is not JSON\n  found: "),
        ("t.json", json.dumps([{"path": "a.mp4", "label": [1, 2]}]), "line 1 gives a video several classes"),
        ("t.csv", "path,label\n", "lists no video"),
    ],
)
def test_damaged_tables_say_what_is_wrong(tmp_path, name, text, wrong):
    with pytest.raises(ConfigError, match=wrong):
        written(tmp_path, name, text)


def test_forced_to_be_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("name,label\na.mp4,1\n")
    with pytest.raises(ConfigError, match=r"is no table of videos\n  found: 'name,label'\n  fix:   .*path, video_path"):
        read_list(tmp_path / "t.csv", format="table")
