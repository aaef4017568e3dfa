"""`apt-edge stream`: label what a file, a camera or a network stream shows, as it happens."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_edge.commands.numbers import count, length
from apt_edge.commands.tasks import add_tasks, tasks_of

if TYPE_CHECKING:
    from apt_edge.runtime.runner import TaskRunner
    from apt_edge.stream.annotate import Annotated
    from apt_edge.stream.clock import Clock
    from apt_edge.stream.source import Source
    from apt_edge.stream.windows import Windows


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
    parser.add_argument("--threads", type=count, help="threads of the runtime (default: all cores)")
    windows = parser.add_argument_group("windows")
    hop = windows.add_mutually_exclusive_group()
    hop.add_argument("--hop", type=count, metavar="FRAMES", help="from one window to the next (default: a good reuse)")
    hop.add_argument("--hop-seconds", type=length, metavar="SECONDS", help="the same in seconds")
    windows.add_argument(
        "--span",
        type=count,
        metavar="FRAMES",
        help="length of a window, for models of `segments` (default: stride a frame)",
    )
    windows.add_argument(
        "--deadline", type=length, metavar="SECONDS", help="drop a window that waited and whose result would be older"
    )
    speed = windows.add_mutually_exclusive_group()
    speed.add_argument("--realtime", action="store_true", help="a file at its own speed (the default)")
    speed.add_argument("--fast", action="store_true", help="a file or - as fast as can be; no window is dropped")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--on", type=float, default=0.6, help="mean probability at which a label begins (default 0.6)")
    labels.add_argument("--off", type=float, default=0.4, help="below this it ends (default 0.4)")
    labels.add_argument("--smooth", type=count, default=4, metavar="WINDOWS", help="the mean is of so many (default 4)")
    parser.add_argument("--retries", type=int, default=10, help="attempts in a row to connect again (default 10)")
    parser.add_argument("--events", type=Path, metavar="FILE", help="append events as JSON lines")
    parser.add_argument(
        "--annotate", type=Path, metavar="OUT.mp4", help="write the video with its labels; needs Pillow"
    )
    parser.add_argument("--windows", action="store_true", help="tell the likeliest labels of every window, too")
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.runtime.runner import TaskRunner
    from apt_edge.stream.annotate import Annotated
    from apt_edge.stream.clock import Clock
    from apt_edge.stream.smoothing import Smoothing
    from apt_edge.stream.source import Source

    smoothing = Smoothing(args.on, args.off, args.smooth)
    smoothing.check()
    clock = Clock()
    with ExitStack() as stack:  # everything that can be wrong is found before the first frame
        stack.enter_context(_stopped_by_signals(clock))
        annotated = stack.enter_context(Annotated(args.annotate)) if args.annotate else None
        runner = TaskRunner.open(args.model, tasks_of(args), args.threads)
        source = Source(args.source, clock, args.retries, args.fast)
        error = _stream(args, runner, source, clock, smoothing, annotated)
    if error is not None:
        raise error


def _stream(
    args: argparse.Namespace,
    runner: TaskRunner,
    source: Source,
    clock: Clock,
    smoothing: Any,
    annotated: Annotated | None,
) -> Exception | None:
    from apt_edge.stream.events import Events
    from apt_edge.stream.feed import Feed
    from apt_edge.stream.report import LiveLine, sentence
    from apt_edge.stream.scheduler import Scheduler
    from apt_edge.stream.stream import Stream

    windows = _windows(args, runner, source)
    line = LiveLine(sys.stderr)

    def tell(entry: Mapping[str, Any]) -> None:
        line.clear()
        print(json.dumps(entry) if args.json else sentence(entry), flush=True)

    def show(now: float, numbers: Any, labels: Mapping[str, tuple[str, float]]) -> None:
        line.show(now, numbers, labels)
        if annotated is not None:
            several = len(labels) > 1
            annotated.text = "\n".join(
                f"{f'{task}: ' if several else ''}{label} {probability:.0%}"
                for task, (label, probability) in labels.items()
            )

    with _log(args.events) as log:
        events = Events(clock, log, tell)
        events.write(
            "begin", source=source.name, tasks=list(runner.tasks), span=windows.span, hop=windows.hop, rate=source.rate
        )
        scheduler = Scheduler(args.deadline)
        feed = Feed(source.items(), runner.model.clip, windows, scheduler, clock, annotated)
        stream = Stream(runner, feed, scheduler, windows.hop, smoothing, events, clock, args.windows, show)
        if not args.fast:
            feed.start()
        try:
            return stream.run()
        finally:
            if stream.joined:
                source.close()


def _windows(args: argparse.Namespace, runner: TaskRunner, source: Source) -> Windows:
    from apt_edge.errors import ConfigError
    from apt_edge.stream.windows import windows_of

    if args.fast and source.kind not in ("file", "stdin"):
        raise ConfigError("--fast is for files and standard input", found=source.name, fix="leave --fast out")
    hop = args.hop
    if args.hop_seconds is not None:
        if not source.rate:
            raise ConfigError(f"{source.name} does not tell its frame rate", fix="give --hop in frames")
        hop = max(1, round(args.hop_seconds * source.rate))
    return windows_of(runner.model.clip, hop, args.span, runner.tubelet)


@contextmanager
def _log(path: Path | None) -> Iterator[Any]:
    """The file of events, opened to append: what an earlier run wrote is kept."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        yield file


@contextmanager
def _stopped_by_signals(clock: Clock) -> Iterator[None]:
    """Ctrl-C and the service manager's SIGTERM end the stream in order; a second one at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

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
