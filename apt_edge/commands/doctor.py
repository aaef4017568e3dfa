"""`apt-edge doctor`: what this machine can do."""

from __future__ import annotations

import argparse
import json
from typing import Any

from apt_edge.commands.lines import lines


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("doctor", help="show versions, what is missing for which step, and the fix")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.doctor import examine

    report = examine()
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(lines({key: value for key, value in report.items() if key != "steps"}))
    for step, facts in report["steps"].items():
        versions = ", ".join(f"{name} {number}" for name, number in facts["found"].items())
        print(f"{'ok     ' if facts['ready'] else 'missing'} {step}: {versions or 'nothing found'}")
        if facts["missing"]:
            print(f"          lacks {', '.join(facts['missing'])}; fix: {facts['fix']}")
