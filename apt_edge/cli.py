"""`apt-edge predict | stream | time | inspect | halve | doctor`: what a device user types; `bundle`: for its scripts.

One command a file in `apt_edge.commands`; each adds its parser and imports what it needs when it runs.
"""

from __future__ import annotations

import argparse

from apt_edge.commands import bundle, doctor, halve, inspect, predict, stream, time
from apt_edge.commands.anywhere import OptionsAnywhere
from apt_edge.errors import name_missing_packages, run_tool

COMMANDS = (predict, stream, time, inspect, halve, doctor, bundle)


def main() -> None:
    """Entry point of the `apt-edge` command."""
    name_missing_packages("apt-edge")
    run_tool(_main, "apt-edge")


def _main() -> None:
    args = _parser().parse_args()
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="apt-edge", description="Prompt-tuned video transformers on a device.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=OptionsAnywhere)
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    main()
