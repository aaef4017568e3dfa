"""`apt-edge predict | inspect | doctor`: what a device user types."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apt_edge.errors import run_tool


def main() -> None:
    """Entry point of the `apt-edge` command."""
    run_tool(_main, "apt-edge")


def _main() -> None:
    args = _parser().parse_args()
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="apt-edge", description="Prompt-tuned video transformers on a device.")
    commands = parser.add_subparsers(required=True, metavar="command")

    predict = commands.add_parser("predict", help="label video files with an exported model")
    predict.add_argument("model", type=Path, help="directory that export.to_onnx wrote")
    predict.add_argument("videos", type=Path, nargs="+", help="video files")
    predict.add_argument("--top", type=int, default=5, help="labels to show (default 5)")
    predict.add_argument("--threads", type=int, help="threads of the runtime (default: all cores)")
    predict.set_defaults(run=_predict)

    inspect = commands.add_parser("inspect", help="show what a pack, a backbone, a model directory or an engine holds")
    inspect.add_argument("path", type=Path)
    inspect.set_defaults(run=_inspect)

    doctor = commands.add_parser("doctor", help="show versions, what is missing for which step, and the fix")
    doctor.set_defaults(run=_doctor)

    for command in (predict, inspect, doctor):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _predict(args: argparse.Namespace) -> None:
    from apt_edge.runtime.model_dir import ModelDir
    from apt_edge.runtime.ort import OrtSession
    from apt_edge.runtime.predictor import Predictor

    model = ModelDir.load(args.model)
    predictor = Predictor(model, OrtSession(model.onnx, args.threads))
    for video in args.videos:
        prediction = predictor.predict(video, args.top)
        if args.json:
            print(json.dumps(prediction.__dict__))
            continue
        print(video)
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True):
            print(f"  {probability:6.1%}  {label}")
        print("  " + ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in prediction.milliseconds.items()))


def _inspect(args: argparse.Namespace) -> None:
    from apt_edge.inspection import inspect

    facts = inspect(args.path)
    print(json.dumps(facts, indent=2) if args.json else _lines(facts))


def _doctor(args: argparse.Namespace) -> None:
    from apt_edge.doctor import examine

    report = examine()
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(_lines({key: value for key, value in report.items() if key != "steps"}))
    for step, facts in report["steps"].items():
        versions = ", ".join(f"{name} {number}" for name, number in facts["found"].items())
        print(f"{'ok     ' if facts['ready'] else 'missing'} {step}: {versions or 'nothing found'}")
        if facts["missing"]:
            print(f"          lacks {', '.join(facts['missing'])}; fix: {facts['fix']}")


def _lines(facts: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", _lines(value, indent + "  ")] if value else [f"{indent}{key}: none"]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            lines.append(f"{indent}{key}: {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
