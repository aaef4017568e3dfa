"""Files of class names in every form they come in, and where they are found."""

from __future__ import annotations

import json
import sys

import pytest

from apt_edge.errors import ConfigError, MissingDependency
from apt_edge.video.labels import counts_from, find_labels, read_labels


def test_one_name_a_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffslide right\r\nslide left \n\n", encoding="utf-8")
    assert read_labels(path) == ["slide right", "slide left"]
    path.write_text("a\n\nb\n")
    with pytest.raises(ConfigError, match=r"line 2 is blank\n  fix:   .* remove it"):
        read_labels(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ConfigError, match=r"line 3 repeats a class\n  found: 'a' is on line 1\n  fix:   remove one"):
        read_labels(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_map.txt", "air drumming\nabseiling\nzumba\n"),
        ("classInd.txt", "1 air drumming \r\n2 abseiling\r\n3 zumba\r\n\r\n"),
        ("kinetics_class2ind.txt", "abseiling 1\nzumba 2\nair drumming 0\n"),
        ("classes.txt", "1\tabseiling\n0\tair drumming\n2\tzumba\n"),
        ("classes.txt", "abseiling,1\nair drumming,0\nzumba,2\n"),
        ("labels.csv", "id,name\n1,abseiling\n0,air drumming\n2,zumba\n"),
        ("labels.csv", "name\nair drumming\nabseiling\nzumba\n"),
        ("jester-v1-labels.csv", "air drumming\nabseiling\nzumba\n"),
        ("labels.json", json.dumps({"abseiling": "1", "air drumming": "0", "zumba": "2"})),
        ("labels.json", json.dumps({'"abseiling"': 1, '"air drumming"': 0, "zumba": 2})),
        ("labels.json", json.dumps({"1": "abseiling", "0": "air drumming", "2": "zumba"})),
        ("labels.json", json.dumps(["air drumming", "abseiling", "zumba"])),
        (
            "config.json",
            json.dumps({"num_frames": 16, "id2label": {"0": "air drumming", "1": "abseiling", "2": "zumba"}}),
        ),
        ("config.json", json.dumps({"label2id": {"air drumming": 0, "abseiling": 1, "zumba": 2}})),
        ("data.yaml", "path: x\nnames:\n  0: air drumming\n  1: abseiling\n  2: zumba\n"),
        ("data.yml", "names: [air drumming, abseiling, zumba]\n"),
        ("spec.yaml", "dataset:\n  label_map: {air drumming: 0, abseiling: 1, zumba: 2}\n"),
    ],
)
def test_forms(tmp_path, name, text):
    folder = tmp_path / "of" / "lists"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(text.encode())
    assert read_labels(folder / name) == ["air drumming", "abseiling", "zumba"]
    for place in (folder, folder / "one"):
        assert find_labels(place, {2}) == (["air drumming", "abseiling", "zumba"], folder / name)
    assert find_labels(folder / "one" / "two", {2}) is None


def test_names_that_begin_with_numbers_are_names(tmp_path):
    (tmp_path / "labels.txt").write_text("2 fingers\n3 fingers\n")
    assert read_labels(tmp_path / "labels.txt") == ["2 fingers", "3 fingers"]


def test_names_that_end_in_numbers_are_names(tmp_path):
    (tmp_path / "labels.txt").write_text("step 1\nstep 2\nstep 3\n")
    assert read_labels(tmp_path / "labels.txt") == ["step 1", "step 2", "step 3"]
    (tmp_path / "labels.txt").write_text("step,1\nstep,2\n")
    with pytest.raises(ConfigError, match="repeats a class"):
        read_labels(tmp_path / "labels.txt")


def test_the_first_number(tmp_path):
    for text, first in (("1 a\n2 b\n", 1), ("a 0\nb 1\n", 0), ("a\nb\n", None)):
        (tmp_path / "labels.txt").write_text(text)
        assert counts_from(tmp_path / "labels.txt") == first


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("labels.json", '{"a": 0, "b": 2}', r"one after the other\n  found: 2 names, numbers 0 to 2, 1 is missing"),
        ("labels.json", '{"a": 4, "b": 5}', r"found: 2 names, numbers 4 to 5, 4 is where they begin"),
        ("labels.json", '{"0": "a", "1": "a"}', r"repeats a class\n  found: 2 numbers, 1 names"),
        ("labels.json", '{"a": [0]}', r"names no class\n  found: .*\n  fix:   give a list of names"),
        ("labels.json", "{", r"is not JSON\n  found: "),
        ("labels.json", "[]", "names no class"),
        ("data.yaml", "names: [a, b", r"is not YAML\n  found: "),
        ("data.yaml", "names: x", "names no class"),
        ("labels.csv", "name\na\na\n", "line 2 repeats a class"),
        ("labels.txt", "", r"names no class\n  fix:   write one class name a line"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, name, text, wrong):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=wrong) as caught:
        read_labels(tmp_path / name)
    assert caught.value.fix


def test_missing_files(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_labels(tmp_path / "labels.txt")
    with pytest.raises(ConfigError, match="is a folder"):
        read_labels(tmp_path)


def test_yaml_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "data.yaml").write_text("names: [a, b]\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependency, match=r"PyYAML is not installed\n  fix:   pip install pyyaml, or write"):
        read_labels(tmp_path / "data.yaml")
    assert find_labels(tmp_path, {0}) is None


def test_the_likeliest_file_that_fits_is_found(tmp_path):
    folder = tmp_path / "of" / "lists"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"learning_rate": 1}')  # of another thing
    (folder / "page.yaml").write_text("optim: {}\n")
    (folder / "labels.csv").write_text("path,label\na.mp4,walk\n")  # a table of videos
    assert find_labels(folder, {0}) is None
    (folder / "label_map_k400.txt").write_text("a\nb\n")
    (folder / "label_map_k600.txt").write_text("a\nb\nc\n")
    assert find_labels(folder, {"a"}) == (["a", "b"], folder / "label_map_k400.txt")
    assert find_labels(folder, {0, 2}) == (["a", "b"], folder / "label_map_k400.txt")  # may count from 1
    assert find_labels(folder, {3}) == (["a", "b", "c"], folder / "label_map_k600.txt")
    assert find_labels(folder, {"C"}) == (["a", "b", "c"], folder / "label_map_k600.txt")
    # Beside the list a file that does not fit is given, so that it is told of; one above belongs to something else.
    assert find_labels(folder, {"d"}) == (["a", "b"], folder / "label_map_k400.txt")
    assert find_labels(folder / "deep", {"d"}) is None
    (folder / "labels.txt").write_text("a\n\nb\n")
    with pytest.raises(ConfigError, match="line 2 is blank"):
        find_labels(folder, {0})
    assert find_labels(folder / "deep", {0}) == (["a", "b"], folder / "label_map_k400.txt")
