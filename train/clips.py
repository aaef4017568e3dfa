"""Videos to train on: `make` renders labelled action clips from nothing, `check` decodes every file of your data set.

python -m train.clips make OUT [--seed 0] [--train 640] [--val 400] [--workers N]
python -m train.clips check LIST|ROOT [--part train] [--format F] [--split 1] [--labels FILE] [--root DIR]
    [--decoder pyav] [--workers N] [--timeout 120] [--against LIST] [--out DIR] [--json]

`check` takes a list in any of the known formats, or the root folder of a data set in its published layout; it ends with
exit code 1 when a video is bad.

A folder that `make` finished holds train/*.mp4, val/*.mp4,
train.csv, val.csv, labels.txt, scripts.jsonl and clips.json. Lists and scripts are the same on every machine for the
same seed; the compressed pixels may differ with the encoder.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from tqdm import tqdm

from apt_edge.errors import ConfigError, MissingDependency, VideoError, run_tool
from apt_edge.files import sha256, write_json
from apt_edge.runtime.machine import usable_cores
from apt_edge.video.decode import DECODERS
from apt_edge.video.lists import FORMATS, PARTS
from train.check.lists import check_list
from train.check.report import describe, write_report
from train.synthetic.actions import FPS, LABELS, SIDE, Script, scene, write_script
from train.synthetic.scene import render
from train.synthetic.textures import SPLITS

VERSION = 1  # raised when the same seed gives other clips
GOP = 12
RECORD, SCRIPTS = "clips.json", "scripts.jsonl"
EXIT_CODES = "Exit code: 0 when every video is good, 1 when one is bad or nothing can be checked, 130 after Ctrl-C."
TEXTS = ("train.csv", "val.csv", "labels.txt", SCRIPTS)


def make_clips(
    out: str | Path, seed: int = 0, train: int = 640, val: int = 400, workers: int | None = None
) -> dict[str, Any]:
    """Make a folder of labelled clips, or reuse it when it holds exactly these.

    Args:
        out: the folder; an interrupted make in it is done again, anything else in it is refused.
        seed: of everything.
        train, val: number of clips, the same for each of the 16 classes; the two share no texture.
        workers: processes, None for one a core.

    Returns:
        The record that is also written, last, to `out`/clips.json: version, seed, counts, sha256 of lists and scripts.

    Raises:
        ConfigError: counts that do not divide by the classes, or a folder that holds something else.
    """
    out = Path(out)
    settings = {"version": VERSION, "seed": seed, "train": train, "val": val}
    for name in ("train", "val"):
        if settings[name] < 1 or settings[name] % len(LABELS):
            fix = f"use {max(1, round(settings[name] / len(LABELS))) * len(LABELS)}"
            raise ConfigError(f"{settings[name]} {name} clips do not divide by {len(LABELS)} classes", fix=fix)
    if seed < 0:
        raise ConfigError("the seed must not be negative", found=str(seed))
    if (record := _reusable(out, settings)) is not None:
        print(f"{out} already holds these clips: reused", file=sys.stderr)
        return record
    scripts = [(split, *item) for split in ("train", "val") for item in _scripts(seed, split, settings[split])]
    lines = [json.dumps({"clip": f"{split}/{name}", **script.to_dict()}) for split, name, script in scripts]
    _write(out / SCRIPTS, lines)  # first: it marks the folder as ours
    _render_all([(str(out / split / name), script) for split, name, script in scripts], workers)
    for wanted in ("train", "val"):
        _write(out / f"{wanted}.csv", [f"{s}/{name} {script.label}" for s, name, script in scripts if s == wanted])
    _write(out / "labels.txt", LABELS)
    record = settings | {"sha256": {name: sha256(out / name) for name in TEXTS}}
    write_json(out / RECORD, record)
    return record


def _scripts(seed: int, split: str, count: int) -> Iterator[tuple[str, Script]]:
    """File names and scripts; the class goes round, so that it hangs on nothing that is drawn."""
    for index in range(count):
        label = index % len(LABELS)
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS[split], index])))
        yield f"{index:04d}-{LABELS[label].replace(' ', '-')}.mp4", write_script(label, split, rng)


def _reusable(out: Path, settings: dict[str, int]) -> dict[str, Any] | None:
    """The record of a finished folder with these settings; otherwise clear what an unfinished make of ours left."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", fix="name a folder")
    if not out.exists() or not any(out.iterdir()):
        return None
    if not (out / SCRIPTS).is_file():
        raise ConfigError(f"{out} is not empty and holds no clips made here", fix="name another folder")
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        found = {name: record[name] for name in settings}
    except (OSError, ValueError, KeyError, TypeError):
        print(f"{out} holds a make that was interrupted: making it again", file=sys.stderr)
    else:
        if found != settings:
            differing = ", ".join(f"{name} {found[name]}" for name in settings if found[name] != settings[name])
            raise ConfigError(
                f"{out} holds other clips", found=differing, fix="name another folder, or delete this one"
            )
        if _intact(out, record):
            return dict(record)
        print(f"{out} has changed since it was made: making it again", file=sys.stderr)
    for name in (RECORD, *TEXTS[:-1]):
        (out / name).unlink(missing_ok=True)
    for split in ("train", "val"):
        for clip in (out / split).glob("*.mp4"):
            clip.unlink()
    return None


def _intact(out: Path, record: dict[str, Any]) -> bool:
    if any(not (out / name).is_file() or sha256(out / name) != record["sha256"].get(name) for name in TEXTS):
        return False
    with open(out / SCRIPTS, encoding="utf-8") as file:
        clips = [out / json.loads(line)["clip"] for line in file]
    return all(clip.is_file() and clip.stat().st_size for clip in clips)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())  # bytes: the same line ends everywhere


def _render_all(jobs: list[tuple[str, Script]], workers: int | None) -> None:
    for folder in {Path(path).parent for path, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    workers = workers or usable_cores()
    with tqdm(total=len(jobs), desc="clips", unit="clip", disable=None) as bar:
        if workers == 1:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # the pictures are too small to share out
            try:
                for job in jobs:
                    _render(job)
                    bar.update()
            finally:
                torch.set_num_threads(threads)
            return
        # spawn: a forked torch may hang on the locks of its parent's threads
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
            for _ in pool.map(_render, jobs, chunksize=8):
                bar.update()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, once
    torch.set_num_threads(1)


def _render(job: tuple[str, Script]) -> None:
    """Render one script and encode it as H.264."""
    path, script = job
    frames = render(scene(script), SIDE, np.random.default_rng([script.seed, 1]))  # 1: not the stream of the scene
    try:
        with av.open(path, "w") as container:
            # asm=0: with AVX-512 instructions x264 does not give the same bits twice.
            options = {"crf": str(script.crf), "g": str(GOP), "preset": "veryfast", "x264-params": "asm=0"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            stream.codec_context.thread_count = 1
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    except av.codec.codec.UnknownCodecError:
        raise MissingDependency(
            "this build of PyAV cannot write H.264", fix="pip install --force-reinstall av"
        ) from None


def main() -> None:
    """Parse the command line and run `make` or `check`."""
    parser = argparse.ArgumentParser(prog="python -m train.clips", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make a folder of labelled action clips")
    make.add_argument("out", type=Path)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--train", type=int, default=640, help="training clips (default: %(default)s)")
    make.add_argument("--val", type=int, default=400, help="validation clips (default: %(default)s)")
    make.add_argument("--workers", type=int, help="processes (default: one a core)")
    _add_check(commands)
    arguments = parser.parse_args()
    if arguments.command == "check":
        _check(arguments)
        return
    make_clips(arguments.out, arguments.seed, arguments.train, arguments.val, arguments.workers)
    print(f"{arguments.out}: {arguments.train} training and {arguments.val} validation clips, {len(LABELS)} classes")


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="decode every video of a data set, in worker processes",
        description="Decode every video of your data set to its end, and look for what its list gets wrong: "
        "missing and damaged files, videos with two classes, videos that training and validation share.",
        epilog=EXIT_CODES,
    )
    check.add_argument("path", type=Path, help="a list of videos, or the root folder of a data set")
    check.add_argument("--part", choices=PARTS, help="part to decode (default: the list's own, else train and val)")
    check.add_argument("--format", choices=FORMATS, help="of the list (default: found out)")
    check.add_argument(
        "--split", type=int, choices=[1, 2, 3], default=1, help="of UCF101 and HMDB51 (default: %(default)s)"
    )
    check.add_argument("--labels", type=Path, help="file of class names (default: looked for beside the list)")
    check.add_argument("--root", type=Path, help="folder that relative paths start at")
    check.add_argument("--decoder", choices=DECODERS, default="pyav", help="(default: %(default)s)")
    check.add_argument("--workers", type=int, help="processes (default: one a core)")
    check.add_argument("--timeout", type=float, default=120.0, help="seconds for one file (default: %(default)g)")
    check.add_argument("--against", type=Path, help="list that may share no video (default: the other part)")
    check.add_argument("--out", type=Path, help="folder for check.json, bad.txt and check.png")
    check.add_argument("--json", action="store_true", help="print the report as JSON")


def _check(arguments: argparse.Namespace) -> None:
    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "out", "json")}
    report = check_list(**options)
    if arguments.out:
        write_report(report, arguments.out)
    print(json.dumps(report, indent=2, ensure_ascii=False) if arguments.json else describe(report))
    if report["bad"]:
        raise VideoError(
            f"{len(report['bad'])} of {report['clips']} videos of {arguments.path} are bad",
            fix="replace them or take their lines out of the list",
        )


if __name__ == "__main__":
    run_tool(main, "train.clips")
