"""The option that names tasks of a model and their packs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add `--task NAME=PACK`, which may be repeated."""
    parser.add_argument(
        "--task",
        action="append",
        type=_task,
        default=[],
        metavar="NAME=PACK",
        help="a task of a model exported with prompts.mode=bound, and its pack; repeat it for more (default: its own)",
    )
    parser.set_defaults(parser=parser)


def tasks_of(args: argparse.Namespace) -> dict[str, Path]:
    """Task name to pack file; ends in a usage error when a name occurs twice."""
    tasks = dict(args.task)
    if len(tasks) < len(args.task):
        args.parser.error("--task: every task needs a name of its own")
    return tasks


def _task(text: str) -> tuple[str, Path]:
    name, _, pack = text.partition("=")
    if not name or not pack:
        raise argparse.ArgumentTypeError(f"{text} is no task: write NAME=PACK, as dance=runs/dance/pack.safetensors")
    return name, Path(pack)
