"""`apt-edge inspect`: what a file of this project holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apt_edge.commands.lines import lines


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("inspect", help="show what a pack, a backbone, a model directory or an engine holds")
    parser.add_argument("path", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.inspection import inspect

    facts = inspect(args.path)
    print(json.dumps(facts, indent=2) if args.json else lines(facts))
