"""`apt-edge predict`: label videos, in one task or in many."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_edge.commands.numbers import count, threads
from apt_edge.commands.places import taken
from apt_edge.commands.tasks import add_tasks, tasks_of

if TYPE_CHECKING:
    from apt_edge.runtime.predictor import Predictor
    from apt_edge.video.lists import Item

COLUMNS = ("video", "start", "end", "task", "rank", "label", "probability", "error")
NAMED = 3  # failed videos that the last message names
Row = dict[str, Any]  # of one video and task; with `error` alone, of a video that could not be read


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "predict",
        help="label videos with an exported model",
        description="A video that cannot be read is a row with its reason; the others go on.",
    )
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote, or a bundle")
    parser.add_argument("videos", type=Path, nargs="*", metavar="FILE", help="video files, folders of videos")
    parser.add_argument("--list", type=Path, help="list of videos, or the root folder of a data set")
    parser.add_argument("--root", type=Path, help="folder that paths of the list start at (default: found out)")
    add_tasks(parser)
    parser.add_argument("--views", default="1x1", metavar="CxR", help="clips x crops, averaged, as 5x3 (default 1x1)")
    parser.add_argument("--top", type=count, default=5, help="labels to show (default 5)")
    parser.add_argument("--threads", type=threads, help="threads of the runtime (default: all cores)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a table, one line a label")
    parser.add_argument("--json", action="store_true", help="print JSON, one line a video and task")
    parser.add_argument("--skip-bad", action="store_true", help="exit with 0 although videos could not be read")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from apt_edge.commands.progress import Progress
    from apt_edge.errors import VideoError
    from apt_edge.runtime.predictor import Predictor
    from apt_edge.runtime.runner import TaskRunner
    from apt_edge.video.views import Views

    if not args.videos and args.list is None:
        args.parser.error("give video files, folders of videos, or --list")
    views, videos = Views.parse(args.views), _videos(args)
    if args.csv:
        _check_table(args, [item.path for item in videos])
    predictor = Predictor(TaskRunner.open(args.model, tasks_of(args), args.threads), views)
    progress, failed = Progress(len(videos), "videos"), list[str]()
    say = _say_json if args.json else _say
    with _table(args.csv) if args.csv else nullcontext() as write:
        for done, video in enumerate(videos, 1):
            rows = _rows(predictor, video, args.top)
            failed += [f"{row['video']} {row['error']}" for row in rows if "error" in row]
            progress.clear()
            say(rows)
            if write:
                write(rows)
            progress.show(done, len(failed))
    progress.clear()
    if failed and not args.skip_bad:
        raise VideoError(
            f"{len(failed)} of {len(videos)} videos could not be read",
            found="; ".join(failed[:NAMED] + (["..."] if len(failed) > NAMED else [])),
            fix="replace them, or pass over them with --skip-bad",
        )


def _videos(args: argparse.Namespace) -> list[Item]:
    """What was asked for, in this order; a file that is not there is told of when it is read."""
    from apt_edge.video.lists import Item, read_list
    from apt_edge.video.walk import videos_in

    items = []
    for path in args.videos:
        items += [Item(found, None) for found in (videos_in(path) if path.is_dir() else [path])]
    if args.list is not None:
        listed = read_list(args.list, root=args.root)
        for note in listed.notes:
            print(f"{args.list}: {note}", file=sys.stderr)
        items += listed.items
    return items


def _rows(predictor: Predictor, item: Item, top: int) -> list[Row]:
    """One row a task, or one that says why there is none."""
    from apt_edge.errors import VideoError, reason_of
    from apt_edge.files import as_text

    segment = {name: at for name, at in (("start", item.start), ("end", item.end)) if at is not None}
    row = {"video": as_text(item.path), **segment}
    try:
        return [row | vars(prediction) for prediction in predictor.predict(item, top)]
    except (VideoError, OSError) as error:
        return [row | {"error": reason_of(error, item.path)}]


def _say_json(rows: Sequence[Row]) -> None:
    for row in rows:
        print(json.dumps(row), flush=True)


def _say(rows: Sequence[Row]) -> None:
    first = rows[0]
    segment = f" from {first.get('start', 0):g} s" if "start" in first or "end" in first else ""
    segment += f" to {first['end']:g} s" if "end" in first else ""
    print(f"{first['video']}{segment}")
    for row in rows:
        if "error" in row:
            print(f"  {row['error']}", flush=True)
            return
        indent = "  "
        if len(rows) > 1:
            print(f"  {row['task']}")
            indent = "    "
        for label, probability in zip(row["labels"], row["probabilities"], strict=True):
            print(f"{indent}{probability:6.1%}  {label}")
    print("  " + ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in first["milliseconds"].items()), flush=True)


def _check_table(args: argparse.Namespace, videos: Sequence[Path]) -> None:
    """Raise ConfigError where the table would take the place of something that is not a table."""
    from apt_edge.errors import ConfigError

    inputs = [*videos, *(path for path in (args.list, *tasks_of(args).values()) if path)]
    if found := taken(args.csv, args.model, inputs):
        raise ConfigError(f"{args.csv} cannot be the table", found=found, fix="give --csv another name")


@contextmanager
def _table(path: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A function that adds rows to a table, which takes its name at the end, whole or as far as it came."""
    from apt_edge.errors import AptEdgeError
    from apt_edge.files import atomic

    stopped: BaseException | None = None
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()

        def write(rows: Sequence[Row]) -> None:
            for row in rows:
                told = {name: row[name] for name in COLUMNS if name in row}
                ranked = zip(row.get("labels", ()), row.get("probabilities", ()), strict=True)
                lines = [{"rank": k, "label": x, "probability": p} for k, (x, p) in enumerate(ranked, 1)]
                writer.writerows(told | line for line in lines or [{}])

        try:
            yield write
        except (KeyboardInterrupt, BrokenPipeError, AptEdgeError) as error:
            stopped = error
    if stopped:
        raise stopped
