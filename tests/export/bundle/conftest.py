"""A Python in which only named packages can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Names of modules of one file or folder: what is neither in the standard library nor in ALLOWED does not exist.
GUARD = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if path is None and top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path = [Guard(), *(f for f in sys.meta_path if not str(getattr(f, "__module__", "")).startswith("__editable"))]
"""

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run_script(tmp_path: Path) -> Run:
    """Run a script of a bundle: `run(directory, "build.sh", bin=folder of trtexec, allowed=packages)`."""

    def run(directory: Path, name: str, *arguments: str, allowed: tuple = (), bin: Path | None = None, **env: str):
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(GUARD.format(allowed={"apt_edge", "numpy", *allowed}))
        python = site / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        path = os.pathsep.join([*([str(bin)] if bin else []), "/usr/bin", "/bin"])
        environment = {"PATH": path, "PYTHON": str(python), "HOME": str(tmp_path), **env}
        command = [str(directory / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)

    return run
