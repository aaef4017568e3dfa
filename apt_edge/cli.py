"""`apt-edge predict | inspect | doctor`: what a device user types; `apt-edge bundle`: what a bundle's scripts call."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from apt_edge.errors import name_missing_packages, run_tool


def main() -> None:
    """Entry point of the `apt-edge` command."""
    name_missing_packages("apt-edge")
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

    bundle = commands.add_parser("bundle", help="steps of a bundle that export.to_bundle wrote; its scripts call them")
    _bundle_parser(bundle.add_subparsers(required=True, metavar="step"))

    for command in (predict, inspect, doctor):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _bundle_parser(steps: Any) -> None:
    for name, run, text in (
        ("verify", _verify, "check every file against SHA256SUMS"),
        ("layers", _layers, "check types and fused attentions of a layer table that trtexec wrote"),
        ("inputs", _inputs, "write the golden clips as raw files for trtexec"),
        ("selftest", _selftest, "run the golden clips, or read what trtexec made of them, and compare the logits"),
        ("measure", _measure, "time the model in ONNX Runtime or OpenVINO"),
        ("collect", _collect, "gather everything into results.json"),
    ):
        step = steps.add_parser(name, help=text)
        step.add_argument("bundle", type=Path)
        step.set_defaults(run=run)
        if name == "layers":
            step.add_argument("table", type=Path, help="file of --exportLayerInfo")
        if name in ("inputs", "selftest"):
            step.add_argument(
                "folder", type=Path, nargs="?" if name == "selftest" else None, help="for trtexec's files"
            )
        if name == "measure":
            step.add_argument("--seconds", type=_seconds, default=30, help="length of the measurement (default 30)")
            step.add_argument("--threads", type=int, help="threads of the runtime (default: all cores)")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a length: give a number of seconds above 0")
    return seconds


def _predict(args: argparse.Namespace) -> None:
    from apt_edge.runtime.model_dir import ModelDir
    from apt_edge.runtime.predictor import Predictor
    from apt_edge.runtime.sessions import open_session

    model = ModelDir.load(args.model)
    predictor = Predictor(model, open_session(model, args.threads))
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


def _verify(args: argparse.Namespace) -> None:
    from apt_edge.runtime.bundle import load_bundle

    load_bundle(args.bundle)


def _layers(args: argparse.Namespace) -> None:
    from apt_edge.runtime.engine import check_layers
    from apt_edge.runtime.model_dir import ModelDir
    from apt_edge.runtime.trtexec import read_layers

    print(_lines(check_layers(read_layers(args.table), ModelDir.load(args.bundle).facts)))


def _inputs(args: argparse.Namespace) -> None:
    from apt_edge.runtime.model_dir import ModelDir
    from apt_edge.runtime.selftest import write_inputs

    write_inputs(ModelDir.load(args.bundle), args.folder)


def _selftest(args: argparse.Namespace) -> None:
    from apt_edge.runtime.bundle import load_bundle
    from apt_edge.runtime.selftest import engine_selftest, session_selftest

    model = load_bundle(args.bundle)
    report = engine_selftest(model, args.folder) if args.folder else session_selftest(model)
    print(
        f"self-test passed on {report['clips']} clips: max |logit difference| {report['max_abs']:.2e} "
        f"of logits up to {report['max_logit']:.3g}, first label equal on {report['top1_agreement']:.0%}"
    )


def _measure(args: argparse.Namespace) -> None:
    from apt_edge.runtime.bundle import load_bundle
    from apt_edge.runtime.results import measure

    measure(load_bundle(args.bundle), args.seconds, args.threads)


def _collect(args: argparse.Namespace) -> None:
    from apt_edge.runtime.results import RESULTS, collect, complain

    results = collect(args.bundle)
    for name, row in results["times"].items():
        if row:
            print(f"{name}: median {row['median']:.3f} ms, p90 {row['p90']:.3f}, p99 {row['p99']:.3f}, {row['n']} runs")
            print("".join(f"  warning: {text}\n" for text in row["warnings"]), end="")
    complain(results)
    print(f"everything is in {args.bundle / RESULTS}")


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
