"""The project's exceptions: each message says what was wrong, what was found and what to do.

AptEdgeError            user error, exit code 1
├── ConfigError         a recipe, target or suite that does not validate
├── VideoError          a file that cannot be decoded, or not to the end
├── PackError           a prompt pack that is damaged or does not belong to the backbone
├── BackboneError       weights that cannot be read or do not fit
├── ModelError          an exported model whose files disagree
├── MissingDependency   an optional package that the step needs
└── GateError           a proof failed (parity, fusion, regression), exit code 4
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from apt_edge.files import as_text

ROOMS = ("apt_edge.", "train.", "export.", "bench.")  # a module that is missing there is our own mistake


class AptEdgeError(Exception):
    """A user-facing error.

    Args:
        wrong: what was wrong, one sentence without a full stop.
        found: what was found instead, if that helps.
        fix: what to do about it.
    """

    exit_code = 1

    def __init__(self, wrong: str, *, found: str = "", fix: str = "") -> None:
        self.wrong, self.found, self.fix = wrong, found, fix
        lines = [wrong]
        if found:
            lines.append(f"  found: {found}")
        if fix:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class ConfigError(AptEdgeError):
    """A recipe, target or suite that does not validate."""


class VideoError(AptEdgeError):
    """A video that cannot be decoded, or not to the end."""


class PackError(AptEdgeError):
    """A prompt pack that is damaged or belongs to another backbone."""


class BackboneError(AptEdgeError):
    """Backbone weights that cannot be read or do not fit."""


class ModelError(AptEdgeError):
    """An exported model directory whose files are missing or disagree."""


class MissingDependency(AptEdgeError):
    """An optional package is not installed; the fix names the extra."""


class GateError(AptEdgeError):
    """A proof failed: parity, fusion or a regression bound."""

    exit_code = 4


def reason_of(error: AptEdgeError | OSError, path: str | Path) -> str:
    """What was wrong and what was found, in one line for a row that names `path`: it does not begin with it again."""
    if isinstance(error, AptEdgeError):
        said = error.wrong.removeprefix(f"{path} ") + (f": {error.found}" if error.found else "")
    else:
        other = error.filename and str(error.filename) != str(path)
        said = f"{error.strerror or error}" + (f": {error.filename}" if other else "")
    return as_text(" ".join(said.split()))


def raise_failed(failed: Sequence[Mapping[str, Any]], written: str, fix: str) -> None:
    """Raise what the failed steps of a finished collection amount to: GateError if one was a proof, else AptEdgeError.

    Args:
        failed: {step, what, gate} each; nothing is raised when there is none.
        written: file that holds the results all the same.
        fix: what to do.
    """
    if failed:
        error = GateError if any(entry["gate"] for entry in failed) else AptEdgeError
        raise error(
            f"{written} is written, but not everything is in order",
            found="; ".join(f"{entry['step']}: {entry['what']}" for entry in failed),
            fix=fix,
        )


def name_missing_packages(name: str) -> None:
    """Make a package that is not installed one message instead of a traceback, from here to the end of the process.

    For tools whose imports need an extra: they fail before `run_tool` is reached.

    Args:
        name: of the tool; of `room.tool` the room is the extra that has its packages.
    """
    room, dot, _ = name.partition(".")
    packages = f"apt-edge[{room}]" if dot else "apt-edge"

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.startswith(ROOMS):
            sys.__excepthook__(kind, error, trace)
            return
        print(f"{name}: the package {error.name.partition('.')[0]} is not installed", file=sys.stderr)
        print(f"  fix:   pip install '{packages}'", file=sys.stderr)

    sys.excepthook = hook


def run_tool(main: Callable[[], None], name: str) -> None:
    """Run a command-line tool: user errors become one message on stderr and an exit code, never a traceback."""
    try:
        main()
        if sys.stdout is not None:  # started with its output closed
            sys.stdout.flush()  # here, where a reader that has gone is answered
    except AptEdgeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.exit(1)
    except OSError as error:
        print(f"{name}: {error.strerror or error}", file=sys.stderr)
        if error.filename:
            print(f"  found: {error.filename}", file=sys.stderr)
        print("  fix:   choose a path that exists, has room and may be written", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        _settle_stdout()


def _settle_stdout() -> None:
    """Forget what nobody reads or no disk takes, or the interpreter complains on its way out."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
