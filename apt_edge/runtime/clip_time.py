"""How long one clip takes on this device: trtexec's summary, for every runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apt_edge.runtime.model_dir import INPUT, ModelDir
from apt_edge.runtime.selftest import golden
from apt_edge.runtime.session import HoldingSession
from apt_edge.runtime.sessions import open_session, session_name
from apt_edge.runtime.statistics import summarise, trend
from apt_edge.runtime.tensorrt import TensorRtSession
from apt_edge.runtime.timing import Clock, measure_warm, wall_clock

PERCENTILES = (90, 95, 99)  # as trtexec


def time_clip(
    model: ModelDir, seconds: float = 3, warm_up_ms: float = 200, threads: int | None = None
) -> dict[str, Any]:
    """Time the first golden clip.

    Args:
        model: the exported model.
        seconds: the timed runs take at least so long together; there are ten at least.
        warm_up_ms: of runs before them.
        threads: of the runtime; all cores when None.

    Returns:
        `session`, `threads`, `parts` (how many the model was cut into; the whole graph is timed, none of them),
        `times` (row -> `statistics.summarise`, and `throughput`, clips a second) and `changes`:
        by which fraction the times of a row changed from their first third to their last, where that is beyond noise.
        Row of a graph: `inference`, host arrays to host arrays. Rows of an engine: `compute`, its kernels alone by the
        device's clock, and `with_transfers`, which is what `inference` is.

    Raises:
        ModelError: the model, its engine or its golden clips are damaged.
        AptEdgeError: the runtime is not installed, or has no device.
    """
    session = open_session(model, threads)
    times = measure_session(session, model.feeds(session.inputs, golden(model)[0][0]), seconds, warm_up_ms)
    drifts = {name: drift for name, ms in times.items() if (drift := trend(ms)) and drift.beyond_noise}
    return {
        "session": session_name(model),
        "threads": threads,
        "parts": len(model.facts.get("parts", [])),
        "times": {name: _row(ms) for name, ms in times.items()},
        "changes": {name: drift.change for name, drift in drifts.items()},
    }


def measure_session(
    session: HoldingSession, feeds: Mapping[str, np.ndarray], seconds: float, warm_up_ms: float
) -> dict[str, np.ndarray]:
    """All times in ms of each row that `time_clip` tells of; the session keeps what is fed beside the clip."""
    clip = {INPUT: feeds[INPUT]}
    held = session.hold({name: array for name, array in feeds.items() if name != INPUT})

    def run() -> None:
        session.run(clip, held)

    clocks: dict[str, Clock] = {"inference": wall_clock}
    if isinstance(session, TensorRtSession):
        engine = session
        clocks = {"compute": lambda _: engine.compute_ms(clip, held), "with_transfers": wall_clock}
    return {name: measure_warm(run, seconds, warm_up_ms, clock) for name, clock in clocks.items()}


def _row(times: np.ndarray) -> dict[str, float]:
    return summarise(times, PERCENTILES) | {"throughput": 1e3 / float(times.mean())}
