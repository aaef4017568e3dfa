"""What `export.to_onnx` refuses before it starts to work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apt_edge.errors import BackboneError, ConfigError
from export.to_onnx import export_pack
from tests.conftest import tiny_pack
from tests.export.exporting import target

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pack(tiny_vit, tmp_path):
    path = tmp_path / "pack.safetensors"
    tiny_pack(tiny_vit, tokens=4).save(path)
    return path


def test_clips_of_classes_that_the_pack_lacks_are_refused(pack, tmp_path):
    clips = tmp_path / "clips.txt"
    clips.write_text("a.mp4 0\nb.mp4 4\nc.mp4 5\n")
    with pytest.raises(ConfigError, match=r"uses class 5, and there are 5 classes\s+found: .*c\.mp4"):
        next(export_pack(pack, None, [target()], clips, 32, tmp_path / "out"))


def test_the_list_is_read_as_it_is_said_and_what_was_assumed_is_told(pack, tmp_path, capsys):
    videos = tmp_path / "elsewhere"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (videos / name).write_bytes(b"")
    clips = tmp_path / "clips.txt"
    clips.write_text("a.mp4 0\nb.mp4 4\n")
    reading = {"format": None, "split": None, "root": videos}
    with pytest.raises(BackboneError, match="tiny"):  # the backbone's name, which comes after the list
        next(export_pack(pack, None, [target()], clips, 32, tmp_path / "out", **reading))
    assert "its numbers are taken as the 5 classes" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no list of Kinetics"):
        next(export_pack(pack, None, [target()], clips, 32, tmp_path / "out", **{**reading, "format": "kinetics"}))
    with pytest.raises(ConfigError, match="no folder"):
        next(export_pack(pack, None, [target()], clips, 32, tmp_path / "out", **{**reading, "root": tmp_path / "no"}))


@pytest.mark.parametrize("place", ["out", "out/inside/deep", "."])
def test_a_file_in_the_way_is_found_first(tmp_path, place):
    stands = tmp_path / ("onnxruntime-cpu" if place == "." else "out")
    stands.write_text("mine")
    absent = tmp_path / "absent"
    with pytest.raises(ConfigError, match=rf"{stands.name} is a file\s+fix:   give a directory"):
        next(export_pack(absent, None, [target()], absent, 32, tmp_path / place))
    assert stands.read_text() == "mine"


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_at_least_one_clip_is_needed(count):
    page = "export/targets/onnxruntime-cpu.toml"
    command = ["-m", "export.to_onnx", "pack", "--target", page, "--clips", "list", f"--count={count}"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{count} is not a number of clips: give 1 or more" in done.stderr
