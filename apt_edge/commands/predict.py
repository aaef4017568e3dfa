"""`apt-edge predict`: label video files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("predict", help="label video files with an exported model")
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote")
    parser.add_argument("videos", type=Path, nargs="+", help="video files")
    parser.add_argument("--top", type=int, default=5, help="labels to show (default 5)")
    parser.add_argument("--threads", type=int, help="threads of the runtime (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
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
