"""`apt-edge halve`: a pack in half the bytes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("halve", help="store a pack's prompts in float16, and say how much is rounded")
    parser.add_argument("pack", type=Path, help="pack.safetensors of a training run")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.pack import PromptPack

    PromptPack.load(args.pack).save(args.out, half=True)
    rounding, sizes = PromptPack.load(args.out).rounding, [path.stat().st_size for path in (args.pack, args.out)]
    print(f"{args.out}: {sizes[1]:,} bytes, not {sizes[0]:,}; no key or value has changed by more than {rounding:.2g}")
