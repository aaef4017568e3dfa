"""List files as people write them, and errors that name the line."""

from __future__ import annotations

import pytest

from apt_edge.errors import ConfigError
from apt_edge.video.labels import read_labels
from apt_edge.video.lists import read_list


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 3", "a.mp4", 3),
        ("a.mp4,3", "a.mp4", 3),
        ("a.mp4 , 3 ", "a.mp4", 3),
        ("a.mp4\t12\r", "a.mp4", 12),
        ("air drumming/my clip 2.mp4 0", "air drumming/my clip 2.mp4", 0),
        ("a, b.mp4,7", "a, b.mp4", 7),
        ("vidéos/走る.mp4 1", "vidéos/走る.mp4", 1),
    ],
)
def test_lines(tmp_path, line, path, label):
    (tmp_path / "train.csv").write_text(f"{line}\n", encoding="utf-8")
    (item,) = read_list(tmp_path / "train.csv").items
    assert (item.path, item.label) == (tmp_path / path, label)


def test_order_blank_lines_byte_order_mark_and_absolute_paths(tmp_path):
    (tmp_path / "l.txt").write_text("\ufeffb.mp4 1\n\n/data/a.mp4 0\n", encoding="utf-8")
    items = read_list(str(tmp_path / "l.txt")).items
    assert [(str(i.path), i.label) for i in items] == [(str(tmp_path / "b.mp4"), 1), ("/data/a.mp4", 0)]


@pytest.mark.parametrize("line", ["a.mp4", "a.mp4 x", "a.mp4 -1", "3", "a.mp4 1.5", ", 3"])
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "l.txt").write_text(f"a.mp4 0\n\n{line}\n")
    with pytest.raises(ConfigError, match="line 3") as caught:
        read_list(tmp_path / "l.txt")
    assert line in caught.value.found


@pytest.mark.parametrize("reader", [read_list, read_labels])
def test_files_that_cannot_serve(tmp_path, reader):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, reason in {
        "missing.txt": "does not exist",
        "empty.txt": "no video|no class",
        "binary.txt": "UTF-8",
        ".": "folder",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            reader(tmp_path / name)


def test_labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("slide right\nslide left \n\n")
    assert read_labels(path) == ["slide right", "slide left"]
    path.write_text("a\n\nb\n")
    with pytest.raises(ConfigError, match="line 2 is blank"):
        read_labels(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ConfigError, match="line 3 repeats"):
        read_labels(path)
