"""The check of data sets: sixty broken files, crashes, hangs, segments, duplicates, and what it writes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from apt_edge.errors import AptEdgeError, ConfigError, VideoError
from apt_edge.video.decode import DECODERS
from tests.apt_edge.broken_files import write_files
from tests.apt_edge.video_files import write_video
from train import clips
from train.check import processes
from train.check.lists import check_list
from train.check.report import describe, save_check

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_sixty_broken_files_each_end_in_a_row(broken, tmp_path, decoder):
    """decord refuses two good files, of one frame in Matroska: see its module."""
    path = write_list(tmp_path / "list.txt", [file.path for file in broken])
    report = check_list(path, decoder=decoder, workers=2, timeout=60)
    (part,) = report["parts"].values()
    rows = {row["path"]: row for row in part["rows"]}
    assert len(rows) == report["clips"] == 60
    refused = 0
    for file in broken:
        row = rows[str(file.path)]
        if file.frames is None:
            assert re.search(file.reason, row["reason"]), (file, row)
        elif decoder == "decord" and file.kind == "one frame" and file.path.suffix in (".mkv", ".webm"):
            refused += "decord cannot read" in row["reason"]
        else:
            assert row.get("frames") == file.frames, (file, row)
            assert file.size in (None, (row["width"], row["height"]))
    assert refused == (2 if decoder == "decord" else 0)
    assert part["missing"] == 1  # the link to nothing; the link in a circle is there
    assert len(report["bad"]) == 27 + refused
    lines = describe(report).splitlines()
    assert f"60 videos, {27 + refused} bad" in lines[0]


def test_a_worker_that_dies_or_hangs_costs_one_answer(tmp_path, monkeypatch):
    """The worker's own code, with a decoder in it that kills its process or waits for ever at certain names."""
    room = tmp_path / "train" / "check"
    room.mkdir(parents=True)
    for folder in (room, room.parent):
        (folder / "__init__.py").touch()
    worker = (ROOT / "train" / "check" / "worker.py").read_text()
    trap = """
def verify(path, decoder):
    import ctypes, time
    if path.stem.startswith("crash"):
        ctypes.string_at(0)
    if path.stem.startswith("exit"):
        os._exit(3)
    if path.stem.startswith("hang"):
        time.sleep(600)
    from apt_edge.video.decode import verify
    return verify(path, decoder)


def answer("""
    (room / "worker.py").write_text(worker.replace("def answer(", trap, 1))
    good = write_video(tmp_path / "good.mp4", frames=7)
    names = ["crash1", "good", "hang1", "good", "exit1", "crash2", "good", "hang2", "good", "good"]
    jobs = [
        {"path": str(good.with_stem(name)), "decoder": "pyav", "decode": True, "hash": False, "segments": []}
        for name in names
    ]
    monkeypatch.setattr(processes, "__file__", str(room / "processes.py"))
    monkeypatch.chdir(tmp_path)
    answers = dict(processes.run_jobs(jobs, 2, 5))
    assert sorted(answers) == list(range(10))
    for place, name in enumerate(names):
        found = answers[place]
        if name == "good":
            assert found["frames"] == 7
        else:
            expected = {
                "crash": f"ended by signal {signal.SIGSEGV:d}",
                "exit": "exit code 3",
                "hang": "longer than 5 s",
            }
            assert expected[name.rstrip("12")] in found["reason"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_ctrl_c_ends_at_once_and_leaves_no_process(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=512, gop=1)
    paths = []
    for i in range(300):
        (tmp_path / f"{i}.mp4").symlink_to(path)
        paths.append(tmp_path / f"{i}.mp4")
    command = [sys.executable, "-m", "train.clips", "check", str(write_list(tmp_path / "list.txt", paths))]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell starts what runs in its background deaf
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heard
    )
    while not (workers := workers_of(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def workers_of(pid: int) -> list[int]:
    """Started by any thread of the process."""
    texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for text in texts for child in text.split()]
    return [child for child in children if b"train.check.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_what_is_missing_bad_and_listed_twice(tmp_path):
    good, twin = (write_video(tmp_path / name) for name in ("good.mp4", "twin.mp4"))
    other = write_video(tmp_path / "other.mp4", frames=12)
    (tmp_path / "empty.mp4").touch()
    names = [good, twin, other, good, tmp_path / "empty.mp4", tmp_path / "gone.mp4"]
    (tmp_path / "labels.txt").write_text("jump\nrun\nsit\n")
    path = write_list(tmp_path / "train.txt", names)
    write_list(tmp_path / "val.txt", [twin, write_video(tmp_path / "copy.mp4", frames=12), tmp_path / "gone.mp4"])
    report = check_list(path)
    part = report["parts"]["train"]
    assert (report["clips"], part["clips"]) == (6, 6)
    assert part["labels"] == {"jump": 6, "run": 0, "sit": 0}
    assert part["frames"] == {"least": 12, "median": 40, "most": 40}
    assert (part["fps"], part["sizes"]) == ({"12": 4}, {"72x48": 4})
    assert (part["missing"], part["missing_share"]) == (1, 1 / 6)
    assert part["duplicates"] == [[str(good), str(twin), str(good)]]
    assert [(bad["path"], bad["reason"]) for bad in report["bad"]] == [
        (str(tmp_path / "empty.mp4"), "is empty: 0 bytes"),
        (str(tmp_path / "gone.mp4"), "does not exist"),
    ]
    shared = {(Path(s["paths"][0]).name, Path(s["paths"][1]).name, s["same"]) for s in report["shared"]}
    assert shared == {
        ("good.mp4", "twin.mp4", "content"),
        ("twin.mp4", "twin.mp4", "path"),
        ("other.mp4", "copy.mp4", "content"),
        ("gone.mp4", "gone.mp4", "path"),
    }
    text = describe(report)
    assert "1 files are not there, 16.7 %" in text
    assert "WARNING: in train and val, the same content" in text
    assert "WARNING: the same content" in text
    alone = check_list(path, against=write_list(tmp_path / "else.txt", [other]))
    assert [shared["same"] for shared in alone["shared"]] == ["path"]


def test_a_video_with_two_classes_is_bad(tmp_path):
    """By path, by content, and between parts whose lists number the classes otherwise."""
    paths = [write_video(tmp_path / f"{name}.mp4", frames=5 + i) for i, name in enumerate("abcd")]
    twin = tmp_path / "twin.mp4"
    twin.write_bytes(paths[1].read_bytes())
    names = ["path,label", f"{paths[0]},jump", f"{paths[0]},run", f"{paths[1]},jump", f"{twin},sit"]
    (tmp_path / "train.csv").write_text("\n".join([*names, f"{paths[2]},sit", f"{paths[3]},run"]))
    (tmp_path / "val.csv").write_text("\n".join(["path,label", f"{paths[2]},run", f"{paths[3]},run"]))
    report = check_list(tmp_path / "train.csv")
    assert [(Path(bad["path"]).name, bad["reason"]) for bad in report["bad"]] == [
        ("a.mp4", "has two classes: 'jump' here, 'run' in another line"),
        ("a.mp4", "has two classes: 'run' here, 'jump' in another line"),
        ("b.mp4", f"has two classes: 'jump' here, 'sit' as {twin}"),
        ("twin.mp4", f"has two classes: 'sit' here, 'jump' as {paths[1]}"),
        ("c.mp4", "has two classes: 'sit' here, 'run' in the val part"),
    ]
    assert [Path(shared["paths"][0]).name for shared in report["shared"]] == ["c.mp4", "d.mp4"]
    assert report["parts"]["train"]["duplicates"] == []
    assert [bad["reason"] for bad in check_list(tmp_path / "val.csv")["bad"]] == [
        "has two classes: 'run' here, 'sit' in the train part"
    ]


def test_classes_that_have_nothing_to_do_with_each_other_are_not_compared(tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=5)
    (tmp_path / "train.csv").write_text(f"path,label\n{video},jump\n")
    (tmp_path / "val.csv").write_text(f"path,label\n{video},cook\n")
    report = check_list(tmp_path / "train.csv")
    assert report["bad"] == []
    assert len(report["shared"]) == 1
    assert "classes of the val part are not compared" in report["notes"][0]


def test_segments_leak_where_they_overlap(tmp_path):
    video = write_video(tmp_path / "long.mp4", frames=120)  # ten seconds
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    head = "path,label,start,end"
    (tmp_path / "train.csv").write_text("\n".join([head, f"{video},0,0,4", f"{video},1,4,6", f"{video},0,8,10"]))
    (tmp_path / "val.csv").write_text("\n".join([head, f"{video},1,3,4", f"{copy},1,6,8", f"{copy},0,9.5,"]))
    report = check_list(tmp_path / "train.csv")
    assert [(shared["segments"], shared["same"]) for shared in report["shared"]] == [
        ([[0, 4], [3, 4]], "path"),
        ([[8, 10], [9.5, None]], "content"),
    ]
    assert report["bad"] == []  # classes may follow each other in a video, and overlap
    said = describe(report)
    assert f"WARNING: in train and val, the same path: {video}, 0 s to 4 s and 3 s to 4 s" in said
    assert f"the same content: {video}, 8 s to 10 s and {copy}, 9.5 s to the end" in said


def test_names_that_no_file_can_have_are_reasons(tmp_path):
    path = write_list(tmp_path / "list.txt", [Path("x" * 300 + ".mp4"), write_video(tmp_path / "v.mp4", frames=5)])
    (bad,) = check_list(path)["bad"]
    assert bad["reason"] == os.strerror(errno.ENAMETOOLONG)


def test_a_root_is_checked_in_both_parts(tmp_path):
    for part, frames in (("train", 12), ("val", 20)):
        for name in ("jump", "run"):
            (tmp_path / part / name).mkdir(parents=True)
            write_video(tmp_path / part / name / f"{part}-{name}.mp4", frames=frames + len(name))
    report = check_list(tmp_path)
    assert list(report["parts"]) == ["train", "val"]
    assert [part["labels"] for part in report["parts"].values()] == [{"jump": 1, "run": 1}] * 2
    assert report["shared"] == report["bad"] == report["notes"] == []
    (tmp_path / "val" / "run" / "again.mp4").write_bytes((tmp_path / "train" / "run" / "train-run.mp4").read_bytes())
    for part in (None, "train", "val"):
        report = check_list(tmp_path, part)
        (shared,) = report["shared"]
        assert {Path(path).name for path in shared["paths"]} == {"again.mp4", "train-run.mp4"}
        assert report["clips"] == {None: 5, "train": 2, "val": 3}[part]


def test_segments_and_folders_of_frames(tmp_path):
    video = write_video(tmp_path / "long.mp4", frames=120)  # ten seconds
    for name, count in (("whole", 6), ("short", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(np.full((6, 8, 3), 40 * i, np.uint8)).save(tmp_path / name / f"img_{i:05d}.jpg")
    lines = ["path,label,start,end", f"{video},0,0.0,2.5", f"{video},1,2.5,10.0", f"{video},1,12.0,14.0"]
    (tmp_path / "segments.csv").write_text("\n".join(lines))
    (part,) = check_list(tmp_path / "segments.csv")["parts"].values()
    assert [row.get("frames") for row in part["rows"]] == [30, 90, None]
    assert "shows no frame from 12 s to 14 s: 120 frames, about 10.00 s" in part["rows"][2]["reason"]
    assert part["duplicates"] == []
    (tmp_path / "frames.txt").write_text(f"{tmp_path}/whole 6 0\n{tmp_path}/short 6 1\n")
    report = check_list(tmp_path / "frames.txt")
    (part,) = report["parts"].values()
    assert [(Path(row["path"]).name, row["frames"], row["promised"]) for row in part["miscounted"]] == [("short", 4, 6)]
    assert "holds 4 frames, the list says 6" in describe(report)


def test_the_command_line_writes_what_it_found(tmp_path, monkeypatch, capsys):
    good = write_video(tmp_path / "a good one.mp4")
    (tmp_path / "empty.mp4").touch()
    path = write_list(tmp_path / "list.txt", [good, tmp_path / "empty.mp4"])
    arguments = ["clips", "check", str(path), "--workers", "1", "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(VideoError, match=r"1 of 2 videos"):
        clips.main()
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "check.json").read_text())
    assert (tmp_path / "out" / "bad.txt").read_text() == f"{tmp_path}/empty.mp4\tis empty: 0 bytes\n"
    assert matplotlib.image.imread(tmp_path / "out" / "check.png").std() > 0.05
    monkeypatch.setattr(sys, "argv", [*arguments[:3], "--part", "train", "--timeout", "60"])
    with pytest.raises(VideoError):
        clips.main()
    assert "list.txt: 2 videos, 1 bad" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["bad.txt", "check.json", "check.png"]


def test_the_command_line_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clips", "check", "--help"])
    with pytest.raises(SystemExit):
        clips.main()
    said = " ".join(capsys.readouterr().out.split())
    assert "your data set" in said
    assert "Exit code: 0 when" in said
    monkeypatch.setattr(sys, "argv", ["clips", "check", "list.txt", "--split", "7"])
    with pytest.raises(SystemExit):
        clips.main()
    assert "invalid choice: 7" in capsys.readouterr().err
    assert "your data set" in str(clips.__doc__).splitlines()[0]


@pytest.mark.parametrize("classes", [4, 30, 174])
@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_the_picture(tmp_path, classes):
    names = [
        f"Trying to pour something into something, but missing so that it spills next to it {k}" for k in range(classes)
    ]
    part = {"rows": [{"frames": 9, "label": name} for name in names], "labels": dict.fromkeys(names, 3)}
    save_check({"path": "/d" * 200, "clips": classes, "bad": [], "parts": {"train": part}}, tmp_path / "check.png")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
def test_a_name_that_is_no_text(tmp_path):
    (tmp_path / "train" / "jump").mkdir(parents=True)
    (tmp_path / "val" / "jump").mkdir(parents=True)
    write_video(tmp_path / "val" / "jump" / "v.mp4", frames=3)
    source = write_video(tmp_path / "v.mp4", frames=5)
    os.rename(source, os.fsencode(tmp_path / "train" / "jump") + b"/caf\xe9.mp4")
    report = check_list(tmp_path)
    assert [row["path"].rsplit("/")[-1] for row in report["parts"]["train"]["rows"]] == ["caf\\xe9.mp4"]
    assert report["bad"] == []
    json.dumps(report, ensure_ascii=False).encode()


def test_what_cannot_be_checked_at_all(tmp_path):
    path = write_list(tmp_path / "list.txt", [write_video(tmp_path / "v.mp4")])
    with pytest.raises(AptEdgeError, match="no decoder 'opencv'"):
        check_list(path, decoder="opencv")
    (tmp_path / "labels.txt").write_text("jump\n")
    path.write_text(path.read_text() + f"{tmp_path}/v.mp4 16\n")
    with pytest.raises(ConfigError, match="class 16"):
        check_list(path)


def write_list(path: Path, videos: list[Path]) -> Path:
    path.write_text("".join(f"{video} 0\n" for video in videos))
    return path
