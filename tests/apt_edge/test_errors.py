"""What a user sees when something goes wrong: one message and an exit code, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apt_edge.errors import AptEdgeError, GateError, VideoError, reason_of, run_tool


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (AptEdgeError("it is wrong", found="this", fix="do that"), 1, ["it is wrong", "found: this", "fix:   do that"]),
        (GateError("parity failed"), 4, ["parity failed"]),
        (PermissionError(13, "Permission denied", "/locked/file"), 1, ["Permission denied", "/locked/file", "fix:"]),
        (OSError(28, "No space left on device"), 1, ["No space left on device", "fix:"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_user_errors_end_in_a_message(capsys, error, code, words):
    with pytest.raises(SystemExit) as stop:
        run_tool(failing(error), "train.tune")
    shown = capsys.readouterr()
    assert stop.value.code == code
    assert shown.out == ""
    assert shown.err.startswith("train.tune: ")
    assert all(word in shown.err for word in words)


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_tool(failing(ZeroDivisionError()), "train.tune")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (VideoError("a/b.mp4 is empty", found="0 bytes"), "is empty: 0 bytes"),
        (VideoError("a folder of frames\n  breaks off"), "a folder of frames breaks off"),
        (FileNotFoundError(2, "No such file", "a/b.mp4"), "No such file"),
        (PermissionError(13, "Permission denied", "a/b.mp4/1.png"), "Permission denied: a/b.mp4/1.png"),
        (OSError("odd"), "odd"),
        (VideoError("c\udce9.png is no picture"), "c\\xe9.png is no picture"),
    ],
)
def test_a_reason_is_one_line_beside_its_path(error, reason):
    assert reason_of(error, Path("a/b.mp4")) == reason


def without(package, tool, *arguments):
    """Run a tool as `python -m` does, without one package."""
    code = (
        f"import sys, runpy; sys.modules[{package!r}] = None; sys.argv = {[tool, *arguments]!r}\n"
        f"runpy.run_module({tool!r}, run_name='__main__', alter_sys=True)"
    )
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.parametrize(
    ("package", "tool", "install"),
    [
        ("torch", "export.to_onnx", "apt-edge[export]"),
        ("onnxscript", "export.to_onnx", "apt-edge[export]"),
        ("ml_dtypes", "export.to_onnx", "apt-edge[export]"),
        ("pydantic", "export.to_engine", "apt-edge[export]"),
        ("numpy", "apt_edge.cli", "apt-edge"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package, tool, install):
    done = without(package, tool, *(["predict", "m", "a.mp4"] if tool == "apt_edge.cli" else ["m"]))
    name = tool.replace("apt_edge.cli", "apt-edge")
    assert done.stderr == f"{name}: the package {package} is not installed\n  fix:   pip install '{install}'\n"
    assert (done.returncode, done.stdout) == (1, "")


def test_a_missing_module_of_ours_keeps_its_traceback():
    assert "Traceback" in without("apt_edge.pack", "export.to_onnx").stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    weights = Path(__file__).parents[2] / "apt_edge" / "backbone" / "weights" / "nano.safetensors"
    command = [sys.executable, "-m", "apt_edge.cli", "inspect", str(weights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
        tool.stdout.close()
        assert tool.stderr.read() == b""


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), ("> /dev/full", 1)])
def test_a_closed_output_and_a_full_disk_are_no_tracebacks(redirection, code):
    weights = Path(__file__).parents[2] / "apt_edge" / "backbone" / "weights" / "nano.safetensors"
    command = f'"{sys.executable}" -m apt_edge.cli inspect "{weights}" {redirection}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("No space left" in done.stderr) == (code == 1)
    assert "Exception" not in done.stderr
    assert "Traceback" not in done.stderr
