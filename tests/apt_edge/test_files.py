"""Files and directories are whole or absent, whoever is killed and whoever else writes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from apt_edge.files import as_text, atomic, atomic_directory, scratch

GONE = 2**22 + 1  # no process has this number


def write(path, text):
    with atomic_directory(path) as folder:
        (folder / "file").write_text(text)


def test_what_a_killed_process_left_is_removed(tmp_path):
    for left in (f".m.{GONE}.tmp", f".m.scratch.{GONE}.tmp"):
        (tmp_path / left).mkdir()
    (tmp_path / f".f.{GONE}.tmp").write_text("half")
    (tmp_path / ".m.1.tmp").mkdir()  # of a process that lives
    write(tmp_path / "m", "whole")
    with atomic(tmp_path / "f") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".m.1.tmp", "f", "m"]


def test_a_kill_between_old_and_new_loses_nothing(tmp_path):
    (tmp_path / f".m.old.{GONE}.tmp").mkdir()
    (tmp_path / f".m.old.{GONE}.tmp" / "file").write_text("old")
    with pytest.raises(RuntimeError, match="fails"), atomic_directory(tmp_path / "m"):
        raise RuntimeError("the next one fails as well")
    assert (tmp_path / "m" / "file").read_text() == "old"


def test_a_file_is_not_replaced_by_a_directory(tmp_path):
    (tmp_path / "m").write_text("a file")
    with pytest.raises(NotADirectoryError):
        write(tmp_path / "m", "new")
    assert (tmp_path / "m").read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_two_processes_replace_one_directory(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.apt_edge.test_files import write\n"
        "for i in range(200): write(Path(sys.argv[1]), sys.argv[2])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "m", str(i)], stderr=subprocess.PIPE) for i in (0, 1)
    ]
    assert [process.communicate()[1] for process in both] == [b"", b""]
    assert (tmp_path / "m" / "file").read_text() in ("0", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_scratch_goes_when_it_ends(tmp_path):
    with scratch(tmp_path / "m") as folder:
        (folder / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("a/b.mp4", "a/b.mp4"), ("ä", "ä"), ("caf\udce9.mp4", "caf\\xe9.mp4"), ("\ud800", "\\xed\\xa0\\x80")],
)
def test_every_path_becomes_text_that_can_be_written(name, text):
    assert as_text(name) == as_text(text) == text
    as_text(name).encode()
