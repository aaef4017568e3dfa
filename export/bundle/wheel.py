"""The library as a wheel, built from this clone; equal sources give equal bytes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from apt_edge.errors import AptEdgeError, MissingDependency

ROOT = Path(__file__).parents[2]
EPOCH = 315532800  # 1980-01-01, the first moment that a zip file can hold
NEEDS = ("build", "setuptools")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "apt_edge")


def build_wheel(folder: Path) -> Path:
    """Build `apt_edge-*.whl` into `folder`, from a copy: what an earlier build left in the clone cannot get in.

    Raises:
        MissingDependency: the package build or setuptools is not installed.
        AptEdgeError: the build failed.
    """
    if lacking := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise MissingDependency(
            f"the wheel for the device cannot be built: {' and '.join(lacking)} not installed",
            fix="pip install 'apt-edge[export]'",
        )
    with tempfile.TemporaryDirectory() as copy:
        for name in SOURCES:
            source, target = ROOT / name, Path(copy) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
            else:
                shutil.copy(source, target)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), copy]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise AptEdgeError(
            "the wheel for the device cannot be built",
            found="".join(last),
            fix=f"see what python -m build --wheel --no-isolation {ROOT} says",
        )
    return next(folder.glob("apt_edge-*.whl"))
