"""`apt-edge bundle`: the steps that a bundle's scripts call."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from apt_edge.commands.lines import lines
from apt_edge.commands.numbers import length


def add(commands: Any) -> None:
    """Add the command's parser, with one below it a step."""
    parser = commands.add_parser("bundle", help="steps of a bundle that export.to_bundle wrote; its scripts call them")
    steps = parser.add_subparsers(required=True, metavar="step")
    for name, run, text in (
        ("verify", _verify, "check every file against SHA256SUMS"),
        ("layers", _layers, "check types and fused attentions of a layer table that trtexec wrote"),
        ("trust", _trust, "vouch for model.engine as it is: it may be loaded from now on"),
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
            step.add_argument("--seconds", type=length, default=30, help="length of the measurement (default 30)")
            step.add_argument("--threads", type=int, help="threads of the runtime (default: all cores)")


def _verify(args: argparse.Namespace) -> None:
    from apt_edge.runtime.bundle import load_bundle

    load_bundle(args.bundle)


def _layers(args: argparse.Namespace) -> None:
    from apt_edge.runtime.engine import check_layers
    from apt_edge.runtime.model_dir import ModelDir
    from apt_edge.runtime.trtexec import read_layers

    print(lines(check_layers(read_layers(args.table), ModelDir.load(args.bundle).facts)))


def _trust(args: argparse.Namespace) -> None:
    from apt_edge.runtime.bundle import load_model

    load_model(args.bundle).trust_engine()


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
