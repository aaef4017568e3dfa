"""How long one clip takes on this device: trtexec's summary, for every runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from apt_edge.runtime.model_dir import INPUT, ModelDir
from apt_edge.runtime.selftest import golden
from apt_edge.runtime.sessions import open_session, session_name
from apt_edge.runtime.statistics import summarise, trend
from apt_edge.runtime.timing import measure_warm

PERCENTILES = (90, 95, 99)  # as trtexec


def time_clip(
    model: ModelDir, seconds: float = 3, warm_up_ms: float = 200, threads: int | None = None
) -> dict[str, Any]:
    """Time the first golden clip, from the host's frames to the host's logits.

    Args:
        model: the exported model.
        seconds: the timed runs take at least so long together; there are ten at least.
        warm_up_ms: of runs before them.
        threads: of the runtime; all cores when None.

    Returns:
        `session`, `threads`, `times` (name of a row -> `statistics.summarise`, and `throughput`, clips a second),
        `change` (of the times from their first third to their last, where that is beyond noise, else None).

    Raises:
        ModelError: the model or its golden clips are damaged.
        AptEdgeError: the runtime is not installed.
    """
    session = open_session(model, threads)
    feeds = model.feeds(session.inputs, golden(model)[0][0])
    held = session.hold({name: array for name, array in feeds.items() if name != INPUT})
    clip = {INPUT: feeds[INPUT]}

    def run() -> None:
        session.run(clip, held)

    times = measure_warm(run, seconds, warm_up_ms)
    drift = trend(times)
    return {
        "session": session_name(model),
        "threads": threads,
        "times": {"inference": _row(times)},
        "change": drift.change if drift and drift.beyond_noise else None,
    }


def _row(times: np.ndarray) -> dict[str, float]:
    return summarise(times, PERCENTILES) | {"throughput": 1e3 / float(times.mean())}
