"""The proof of a graph's parts: run one after the other they give what the whole file gives.

Shapes: B clips, T frames, S size, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.errors import GateError
from apt_edge.runtime.agreement import agreement
from apt_edge.runtime.model_dir import INPUT, OUTPUT, feeds
from apt_edge.runtime.ort import OrtSession
from export.graph.split import FRAMES
from export.proof.parity import gate
from export.target import Tolerance


def prove_parts(
    whole: Path,
    parts: Sequence[Path],
    frames_BTSSC: np.ndarray,
    clip: ClipSpec,
    values: Mapping[str, np.ndarray],
    tolerance: Tolerance | None,
) -> float:
    """Run a file and its parts in ONNX Runtime on the CPU; returns the largest difference of their logits.

    Args:
        whole: the graph.
        parts: its parts, in their order.
        frames_BTSSC: uint8, in one run.
        clip: the input contract.
        values: prompts and head, for those that are inputs.
        tolerance: None where the logits must be equal to the last bit.

    Raises:
        GateError: they differ by more.
    """
    session = OrtSession(whole, keep_memory=False)
    given = feeds(session.inputs, frames_BTSSC, clip, values)
    expected_BK = session.run(given)[OUTPUT]
    found_BK = _chain([OrtSession(path, keep_memory=False) for path in parts], given)
    if tolerance is not None:
        gate(agreement(expected_BK, found_BK), tolerance)
    elif not np.array_equal(expected_BK, found_BK):
        raise GateError(
            f"the {len(parts)} parts do not give what {whole.name} gives to the last bit",
            found=f"logits up to {np.abs(expected_BK - found_BK).max():.3g} apart",
            fix="cut elsewhere, or export without --split-at",
        )
    return float(np.abs(expected_BK - found_BK).max())


def _chain(sessions: Sequence[OrtSession], given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits; a first session that takes fewer frames than the clip has runs as often as it takes."""
    known: dict[str, Any] = dict(given)
    for session in sessions:
        feed = {name: known[name] for name in session.inputs}
        axis = FRAMES[given[INPUT].dtype.name]
        if INPUT in feed and (length := session.inputs[INPUT].shape[axis]) != given[INPUT].shape[axis]:
            assert length is not None
            pieces = np.split(given[INPUT], given[INPUT].shape[axis] // length, axis=axis)
            runs = [session.run({**feed, INPUT: np.ascontiguousarray(piece)}) for piece in pieces]
            known |= {name: np.concatenate([run[name] for run in runs], axis=1) for name in session.outputs}
        else:
            known |= session.run(feed)
    logits: np.ndarray = known[OUTPUT]
    return logits
