"""`apt-edge doctor`: what this machine can do, and whether a model would run on it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_edge.commands.lines import lines


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("doctor", help="show the device, what is missing for which step, and the fix")
    parser.add_argument("model", type=Path, nargs="?", help="model or bundle: say what would fail before it fails")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.doctor.report import examine
    from apt_edge.errors import AptEdgeError

    report = examine(args.model)
    print(json.dumps(report, indent=2) if args.json else _text(report))
    problems = report["model"]["problems"] if args.model else []
    if problems:
        raise AptEdgeError(
            f"{args.model} would not run here",
            found="; ".join(problem["what"] for problem in problems),
            fix="do what the report says of each",
        )


def _text(report: Mapping[str, Any]) -> str:
    facts = {key: value for key, value in report.items() if isinstance(value, str)}
    known = {key.replace("_", " "): value for key, value in report["device"].items() if value not in (None, [])}
    found = [lines({**facts, **known})]
    for step, packages in report["steps"].items():
        versions = ", ".join(f"{name} {number}" for name, number in packages["found"].items())
        found.append(f"{'ok     ' if packages['ready'] else 'missing'} {step}: {versions or 'nothing found'}")
        if packages["missing"]:
            found.append(f"          lacks {', '.join(packages['missing'])}; fix: {packages['fix']}")
    if "model" in report:
        found += _model(report["model"])
    return "\n".join(found)


def _model(model: Mapping[str, Any]) -> list[str]:
    failed = f"fails   {model['path']}" + (f" for {model['target']}" if model["target"] else "")
    found = [failed] if model["problems"] else [f"ok      {model['path']} ran a clip in {model['runtime']}"]
    for kind, mark in (("problems", ""), ("warnings", "warning: ")):
        for entry in model[kind]:
            found.append(f"          {mark}{entry['what']}" + (f": {entry['found']}" if entry["found"] else ""))
            found += [f"            fix: {entry['fix']}"] if entry["fix"] else []
    return found
