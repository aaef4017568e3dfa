"""Memory of a stream that does not end: `python -m bench.soak MODEL` runs 20,000 windows and watches.

A short video is streamed again and again, as fast as it decodes, one window a frame; each end is a lost connection,
after which the next one is opened. Nothing of what came before may stay: what is resident in the last quarter of the
windows is compared with the second quarter, the first being the warm-up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from apt_edge.commands.numbers import count, length, threads
from apt_edge.errors import AptEdgeError, ConfigError, GateError, run_tool
from apt_edge.runtime import memory
from apt_edge.runtime.runner import TaskRunner
from apt_edge.stream.clock import Clock
from apt_edge.stream.events import Events, lines
from apt_edge.stream.feed import Feed
from apt_edge.stream.scheduler import Scheduler
from apt_edge.stream.smoothing import Smoothing
from apt_edge.stream.source import Frame, Notice, Source
from apt_edge.stream.stream import Stream
from apt_edge.stream.windows import windows_of

WINDOWS, FRAMES, SAMPLES = 20_000, 600, 200
LEAST = 8  # samples: two a quarter
WIDTH, HEIGHT = 128, 96
BOUND_MB = 4.0


def soak(model: Path, windows: int, bound_mb: float, threads: int | None = None) -> dict[str, Any]:
    """Stream until so many windows have run.

    Returns:
        `windows`, `reuse`, `connections`, `seconds`, resident memory in MB: `first_mb` and `last_mb`, medians of the
        second and the last quarter, `growth_mb` between them, `peak_mb`, and `bound_mb`.

    Raises:
        AptEdgeError: the system does not tell memory.
        ConfigError: too few windows to tell.
        GateError: memory grows beyond `bound_mb`.
    """
    if memory.resident() is None:
        raise AptEdgeError("this system does not tell a process's memory", fix="run this on Linux")
    if windows < LEAST:
        raise ConfigError(f"{windows} windows prove nothing", fix=f"give --windows {LEAST} or more")
    runner, clock, scheduler = TaskRunner.open(model, threads=threads), Clock(), Scheduler()
    kinds, resident = windows_of(runner.model.clip, 1, None, runner.tubelet), []
    every = max(1, windows // SAMPLES)

    def watch(now: float, numbers: Any, labels: Any) -> None:
        if scheduler.run % every == 0:
            resident.append((memory.resident() or 0) / 1e6)
            if sys.stderr.isatty():
                print(end=f"\r{scheduler.run}/{windows} windows, {resident[-1]:.1f} MB", file=sys.stderr, flush=True)
        if scheduler.run >= windows:
            clock.stop()

    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "events").open("w") as log:
        video, begin = _write_video(Path(folder) / "video.ts", max(FRAMES, 2 * kinds.span)), time.monotonic()
        feed = Feed(_again_and_again(video, clock), runner.model.clip, kinds, scheduler, clock)
        events = Events(clock, {"events": lines(log)})
        stream = Stream(runner, feed, scheduler, 1, Smoothing(), events, clock, True, watch)
        error = stream.run()
    if error is not None:
        raise error
    first, last = (float(np.median(part)) for part in (_quarter(resident, 1), _quarter(resident, 3)))
    return _judged(
        {
            "windows": scheduler.run,
            "reuse": stream.numbers()["reuse"],
            "connections": events.counts.get("lost", 0) + 1,
            "seconds": round(time.monotonic() - begin, 1),
            "first_mb": round(first, 2),
            "last_mb": round(last, 2),
            "growth_mb": round(last - first, 2),
            "peak_mb": round(max(resident), 2),
            "bound_mb": bound_mb,
        }
    )


def _judged(found: dict[str, Any]) -> dict[str, Any]:
    if not found["growth_mb"] <= found["bound_mb"]:  # nor where one of them is no number
        raise GateError(
            f"memory grows by {found['growth_mb']} MB in {found['windows']} windows",
            found=json.dumps(found),
            fix="find what is kept: tracemalloc for objects, a run without decoding for FFmpeg's buffers",
        )
    return found


def _quarter(values: list[float], index: int) -> list[float]:
    return values[index * len(values) // 4 : (index + 1) * len(values) // 4]


def _again_and_again(video: Path, clock: Clock) -> Iterator[Frame | Notice]:
    while not clock.stopped:
        source = Source(str(video), clock, 0, fast=True)
        yield from source.items()
        source.close()
        yield Notice("lost", {"reason": "the video is over"})
        yield Notice("reconnected", {"after": 0.0, "attempts": 1})


def _write_video(path: Path, frames: int) -> Path:
    """Noise that changes from frame to frame: every window is another one."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            pixels = np.repeat(np.repeat(random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8), 8, 0), 8, 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def main() -> None:
    """Run one stream for long and compare its memory at the beginning and at the end."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=main.__doc__)
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote, or a bundle")
    parser.add_argument("--windows", type=count, default=WINDOWS, help=f"how many (default {WINDOWS})")
    parser.add_argument("--bound", type=length, default=BOUND_MB, metavar="MB", help=f"growth (default {BOUND_MB:g})")
    parser.add_argument("--threads", type=threads, help="threads of the runtime (default: all cores)")
    args = parser.parse_args()
    print(json.dumps(soak(args.model, args.windows, args.bound, args.threads)))


if __name__ == "__main__":
    run_tool(main, "bench.soak")
