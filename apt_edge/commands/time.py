"""`apt-edge time`: how long one clip takes on this device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_edge.commands.numbers import length, threads


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("time", help="time a model on one clip, and summarise as trtexec does")
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote, or a bundle")
    parser.add_argument("--seconds", type=length, default=3, help="length of the measurement (default 3)")
    parser.add_argument("--warm-up", type=length, default=200, metavar="MS", help="ms of runs before (default 200)")
    parser.add_argument("--threads", type=threads, help="threads of the runtime (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.runtime.bundle import load_model
    from apt_edge.runtime.clip_time import time_clip
    from apt_edge.runtime.machine import device_name, machine

    model, environment = load_model(args.model), machine(args.threads)  # its load before ours
    report = time_clip(model, args.seconds, args.warm_up, args.threads)
    device = device_name(environment, gpu="cpu" not in report["session"])
    report = {"model": str(args.model), "device": device, **report, "machine": environment}
    print(json.dumps(report, indent=2) if args.json else _text(report))


def _text(report: Mapping[str, Any]) -> str:
    threads = f", {report['threads']} threads" if report["threads"] else ""
    lines = [f"{report['model']} with {report['session']} on {report['device']}{threads}, one clip a run"]
    if report["parts"]:
        lines.append(f"the whole graph with one task, not the {report['parts']} parts that predict and stream run")
    for name, row in report["times"].items():
        percentiles = ", ".join(
            f"percentile({key[1:]}%) = {ms:.4g} ms" for key, ms in row.items() if key.startswith("p")
        )
        lines += [
            f"{name}",
            f"  Throughput: {row['throughput']:.4g} clips/s",
            f"  Latency: min = {row['min']:.4g} ms, max = {row['max']:.4g} ms, mean = {row['mean']:.4g} ms, "
            f"median = {row['median']:.4g} ms, {percentiles}",
            f"  Runs: {row['n']}, coefficient of variation {row['cv']:.1%}",
        ]
    for name, change in report["changes"].items():
        lines.append(f"warning: {name} changed by {change:+.1%} from the first third to the last")
    load = report["machine"]["load_average"]
    if load is not None and load > 1:
        lines.append(f"warning: the load of this machine was {load:g} in the last minute: others were working")
    return "\n".join(lines)
