"""The runs of a suite: interleaved at one or several batches, with or without the stages around, or MLPerf's way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.clip import ClipSpec
from apt_edge.runtime.energy import energy_per_run, find_meter
from apt_edge.runtime.timing import Run, measure_for, measure_interleaved, warm_up
from apt_edge.video import decode
from apt_edge.video.load import load_frames, sample_frames
from apt_edge.video.preprocess import short_side_crop
from bench.clips import Videos, batches
from bench.contenders import Opened
from bench.suite import Suite
from bench.torch_session import TorchSession

Times = dict[str, np.ndarray]
Frames = Mapping[ClipSpec, np.ndarray]


def measure(suite: Suite, opened: Sequence[Opened], videos: Videos, frames: Frames) -> Times:
    """All times in ms: under the key of each contender those of its runs, from uint8 frames to logits.

    With `stages`, also those of `stage_names`, taken in the same rounds.

    Args:
        suite: says how to measure.
        opened: what is measured.
        videos: the files.
        frames: their frames as each input contract has them.
    """
    runs = {one.key: _in_turn(one.run, batches(frames[one.clip], one.batch)) for one in opened}
    if suite.mode == "mlperf":
        return {key: _alone(suite, key, run) for key, run in runs.items()}
    assert suite.rounds is not None  # Suite demands it
    if suite.stages:
        for one in opened:
            runs |= _stage_runs(one, videos.paths, frames[one.clip])
    with tqdm(total=suite.rounds, desc=suite.name, unit="round", disable=None) as bar:
        return measure_interleaved(runs, suite.rounds, suite.warmup, progress=lambda done: bar.update())


def energies(opened: Sequence[Opened], frames: Frames) -> dict[str, dict[str, Any] | None]:
    """Joules of a clip and who metered them, under the key of each contender; None where nothing meters them."""
    found: dict[str, dict[str, Any] | None] = {one.key: None for one in opened}
    for gpu in (False, True):
        there = {one.key: one for one in opened if one.on_gpu == gpu}
        meter = find_meter(gpu) if there else None
        if meter is None:
            continue
        runs = {key: _in_turn(one.run, batches(frames[one.clip], one.batch)) for key, one in there.items()}
        for key, joules in energy_per_run(runs, meter).items():
            if joules is not None:
                found[key] = {"joules_per_clip": joules / there[key].batch, "source": meter.source}
    return found


def stage_names(one: Opened) -> dict[str, str]:
    """Where the times of a contender's stages are; contenders with one input contract share what comes before."""
    clip = one.clip.to_json()
    names = {"decode_ms": f"decode for {clip}", "preprocess_ms": f"preprocess for {clip}"}
    if isinstance(one.session, TorchSession) and one.session.on_gpu:
        names["transfer_ms"] = f"transfer to {one.key}"
    return names | {"inference_ms": one.key, "end_to_end_ms": f"end to end of {one.key}"}


def _stage_runs(one: Opened, paths: Sequence[Path], frames_MTSSC: np.ndarray) -> dict[str, Run]:
    """All stages but inference. No file is remembered from one run to the next."""

    def read(path: Path) -> np.ndarray:
        decode.forget()
        return sample_frames(path, one.clip)

    def whole(path: Path) -> None:
        decode.forget()
        one.run(load_frames(path, one.clip)[None])

    decoded = [read(path) for path in paths]
    names = stage_names(one)
    runs = {
        names["decode_ms"]: _in_turn(read, paths),
        names["preprocess_ms"]: _in_turn(partial(short_side_crop, spec=one.clip), decoded),
        names["end_to_end_ms"]: _in_turn(whole, paths),
    }
    if "transfer_ms" in names:
        assert isinstance(one.session, TorchSession)
        runs[names["transfer_ms"]] = _in_turn(one.session.transfer, map(one.feeds, batches(frames_MTSSC, 1)))
    return runs


def _alone(suite: Suite, key: str, run: Run) -> np.ndarray:
    """Back to back for the suite's time, without the others in between."""
    warm_up({key: run}, suite.warmup)
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
    with tqdm(total=suite.seconds, desc=f"{suite.name}: {key}", bar_format=form, disable=None) as bar:
        return measure_for(run, suite.seconds, progress=bar.update)


def _in_turn(function: Callable[..., object], inputs: Iterable[object]) -> Run:
    """A run of `function` on one input after the other, for ever."""
    endless = cycle(list(inputs))

    def run() -> None:
        function(next(endless))

    return run
