"""`apt-edge stream`: label what a file, a camera or a network stream shows, as it happens."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_edge.commands.numbers import count, length, share, threads
from apt_edge.commands.places import taken
from apt_edge.commands.tasks import add_tasks, tasks_of

if TYPE_CHECKING:
    from apt_edge.runtime.runner import TaskRunner
    from apt_edge.stream.annotate import Annotated
    from apt_edge.stream.clock import Clock
    from apt_edge.stream.smoothing import Smoothing
    from apt_edge.stream.source import Source
    from apt_edge.stream.stream import Stream
    from apt_edge.stream.windows import Windows

LONGEST = 100_000  # frames of a window or windows of a mean: an hour of a camera
STDOUT = "standard output"


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "stream",
        help="label a live video with an exported model",
        description="Windows slide over the video; the newest runs, older ones are dropped and counted. Ctrl-C ends.",
    )
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote, or a bundle")
    parser.add_argument(
        "source", help="video file, /dev/videoN, rtsp://..., tcp://..., udp://..., named pipe, - (stdin)"
    )
    add_tasks(parser)
    parser.add_argument("--threads", type=threads, help="threads of the runtime (default: all cores)")
    windows = parser.add_argument_group("windows")
    hop = windows.add_mutually_exclusive_group()
    hop.add_argument("--hop", type=count, metavar="FRAMES", help="from one window to the next (default: a good reuse)")
    hop.add_argument("--hop-seconds", type=length, metavar="SECONDS", help="the same in seconds")
    windows.add_argument(
        "--span",
        type=partial(count, most=LONGEST),
        metavar="FRAMES",
        help="length of a window, for models of `segments` (default: stride a frame)",
    )
    windows.add_argument(
        "--deadline", type=length, metavar="SECONDS", help="drop a window that waited and whose result would be older"
    )
    windows.add_argument("--fast", action="store_true", help="a file or - as fast as can be; no window is dropped")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--on", type=share, default=0.6, help="mean probability at which a label begins (default 0.6)")
    labels.add_argument("--off", type=share, default=0.4, help="below this it ends (default 0.4)")
    most = partial(count, most=LONGEST)
    labels.add_argument("--smooth", type=most, default=4, metavar="WINDOWS", help="the mean is of so many (default 4)")
    attempts = partial(count, least=0)
    parser.add_argument("--retries", type=attempts, default=10, help="attempts in a row to connect again (default 10)")
    parser.add_argument("--events", type=Path, metavar="FILE", help="append events as JSON lines")
    parser.add_argument(
        "--annotate", type=Path, metavar="OUT.mp4", help="write the video with its labels; needs Pillow"
    )
    parser.add_argument("--windows", action="store_true", help="tell the likeliest labels of every window, too")
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.errors import ConfigError
    from apt_edge.runtime.runner import TaskRunner
    from apt_edge.stream.annotate import Annotated
    from apt_edge.stream.clock import Clock
    from apt_edge.stream.connect import kind_of, shown
    from apt_edge.stream.smoothing import Smoothing
    from apt_edge.stream.source import Source
    from apt_edge.stream.windows import windows_of

    smoothing = Smoothing(args.on, args.off, args.smooth)
    smoothing.check()
    _check_places(args)
    if args.fast and kind_of(args.source) not in ("file", "stdin"):
        raise ConfigError("--fast is for files and standard input", found=shown(args.source), fix="leave --fast out")
    clock = Clock()
    with ExitStack() as stack:  # everything that can be wrong is found before the first frame
        stack.enter_context(_stopped_by_signals(clock))
        annotated = stack.enter_context(Annotated(args.annotate)) if args.annotate else None
        log = stack.enter_context(_log(args.events))
        runner = TaskRunner.open(args.model, tasks_of(args), args.threads)
        windows = windows_of(runner.model.clip, args.hop, args.span, runner.tubelet)
        source = Source(args.source, clock, args.retries, args.fast)
        windows = _with_hop(args, windows, source)
        errors = _stream(args, runner, source, clock, windows, smoothing, annotated, log)
    _raise([*errors, *([annotated.error] if annotated and annotated.error else [])])


def _stream(
    args: argparse.Namespace,
    runner: TaskRunner,
    source: Source,
    clock: Clock,
    windows: Windows,
    smoothing: Smoothing,
    annotated: Annotated | None,
    log: Any,
) -> list[Exception]:
    """Run the stream to its end; returns what went wrong, the worst first."""
    from apt_edge.errors import AptEdgeError
    from apt_edge.files import as_text
    from apt_edge.stream.events import Events, Sink, lines
    from apt_edge.stream.feed import Feed
    from apt_edge.stream.report import LiveLine, sentence
    from apt_edge.stream.scheduler import Scheduler
    from apt_edge.stream.stream import Stream

    line, errors = LiveLine(sys.stderr), list[Exception]()

    def tell(entry: Mapping[str, Any]) -> None:
        line.clear()
        print(json.dumps(entry) if args.json else sentence(entry), flush=True)

    sinks: dict[str, Sink] = {STDOUT: tell}
    if log is not None:
        sinks[str(args.events)] = lines(log)
    events, scheduler = Events(clock, sinks, annotated.hear if annotated else None), Scheduler(args.deadline)
    name, span, hop = as_text(source.name), windows.span, windows.hop
    events.write("begin", source=name, tasks=list(runner.tasks), span=span, hop=hop, rate=source.rate)
    feed = Feed(source.items(), runner.model.clip, windows, scheduler, clock, annotated, source.patience)
    stream = Stream(runner, feed, scheduler, hop, smoothing, events, clock, args.windows, line.show)
    if not args.fast:
        feed.start()
    try:
        errors += filter(None, [stream.run()])
    except AptEdgeError as error:
        errors.append(error)
    finally:
        line.clear()
        if stream.joined:
            source.close()
    errors += [error for error in [_nothing(stream, windows)] if error and not errors]
    return errors + [_named(error, sink) for sink, error in events.errors.items()]


def _nothing(stream: Stream, windows: Windows) -> Exception | None:
    """What is wrong when a source ended before there was a window."""
    from apt_edge.errors import VideoError

    numbers = stream.numbers()
    if numbers["windows"] or stream.ended != "the source's end":
        return None
    return VideoError(
        "the source ended before a window was complete",
        found=f"{numbers['frames']} frames; a window takes {windows.last + 1} without a gap",
        fix="give a longer video or, to a model of segments, a shorter --span; predict labels short files",
    )


def _named(error: OSError, sink: str) -> Exception:
    from apt_edge.errors import AptEdgeError

    if sink == STDOUT:
        return error
    found, fix = error.strerror or str(error), "give --events a place with room; what was written until then is kept"
    return AptEdgeError(f"{sink} could not be written to its end", found=found, fix=fix)


def _raise(errors: list[Exception]) -> None:
    """Raise the first of what went wrong, after a line for each of the others; a reader that has gone is the least."""
    worst = [error for error in errors if not isinstance(error, BrokenPipeError)] or errors
    for error in worst[1:]:
        print(f"apt-edge: {error}", file=sys.stderr)
    for error in worst[:1]:
        raise error


def _with_hop(args: argparse.Namespace, windows: Windows, source: Source) -> Windows:
    """The windows, `--hop-seconds` apart where it was given."""
    from apt_edge.errors import ConfigError

    if args.hop_seconds is None:
        return windows
    if not source.rate:
        raise ConfigError(f"{source.name} does not tell its frame rate", fix="give --hop in frames")
    return replace(windows, hop=max(1, round(args.hop_seconds * source.rate)))


def _check_places(args: argparse.Namespace) -> None:
    """Raise ConfigError where what is written would destroy what is read."""
    from apt_edge.errors import ConfigError

    places = {"--annotate": args.annotate, "--events": args.events}
    read = [Path(args.source), *tasks_of(args).values()]
    for option, place in places.items():
        if place is None:
            continue
        found = taken(place, args.model, read)
        if not found and place.exists() and args.source == "-" and os.path.samestat(place.stat(), os.fstat(0)):
            found = "standard input"
        if not found and args.annotate and args.events and args.annotate.resolve() == args.events.resolve():
            found = "the other file that is written"
        if found:
            raise ConfigError(f"{place} cannot be written with {option}", found=found, fix="give it another name")


@contextmanager
def _log(path: Path | None) -> Iterator[Any]:
    """The file of events, opened to append: what an earlier run wrote is kept."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    try:
        yield file
    finally:
        with suppress(OSError):  # a line that could not be written was told of then
            file.close()


@contextmanager
def _stopped_by_signals(clock: Clock) -> Iterator[None]:
    """Ctrl-C and the service manager's SIGTERM end the stream in order; a second one at once. Ignored ones stay so."""
    both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in both.items() if handler is not signal.SIG_IGN}

    def stop(number: int, frame: object) -> None:
        clock.stop()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
