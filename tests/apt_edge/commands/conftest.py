"""The device's commands in this process, and videos that they read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apt_edge import cli
from tests.apt_edge.broken_files import encode


@pytest.fixture
def apt_edge(monkeypatch, capfd) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`apt_edge("predict", ...)`: the exit code, and what stdout and stderr were told."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["apt-edge", *map(str, arguments)])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return subprocess.CompletedProcess(sys.argv, code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A folder: two videos, one below it in a folder of its own, a file that is no video, and one that is cut."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("b.mp4", "a video.mp4", "deeper/c.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        encode(folder / name, "libx264", size=(64, 48), frames=10 + len(name))
    (folder / "notes.txt").write_text("no video\n")
    (folder / "deeper" / "text.mp4").write_text("just text, no video\n" * 9)
    return folder
