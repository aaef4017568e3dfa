"""The project's programs as their users start them."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def usage_of(program: str, *subcommand: str) -> str:
    """What `python -m PROGRAM --help` prints, which takes seconds where torch is imported."""
    command = [sys.executable, "-m", program, *subcommand, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout
