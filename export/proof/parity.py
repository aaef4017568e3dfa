"""The parity gate: an exported graph against the float32 PyTorch model, on real clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from tqdm import tqdm

from apt_edge.clip import ClipSpec
from apt_edge.errors import GateError
from apt_edge.runtime.agreement import agreement, failures
from apt_edge.runtime.model_dir import OUTPUT, feeds
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.session import Session
from apt_edge.runtime.sessions import SESSIONS
from apt_edge.video.preprocess import normalise
from export.target import Tolerance


def check_values(path: Path, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Prompts and head as the graph takes them: each must be a constant or an input of its name, and unchanged.

    Args:
        path: the file, which is read back.
        values: float32.

    Returns:
        The values in the graph's type.

    Raises:
        GateError: one is missing, differs by a bit from its value in that type, or has left its range.
    """
    graph = ir.load(path)
    ports = {value.name: value for value in graph.graph.inputs}
    stored = {}
    for name, array in values.items():
        value = graph.graph.initializers.get(name) or ports.get(name)
        if value is None or value.dtype is None:
            raise GateError(f"{name} is not in the exported graph", fix="report this as a bug")
        stored[name] = np.ascontiguousarray(array.astype(value.dtype.numpy()))  # safetensors takes no other
        if value.const_value is not None and not np.array_equal(value.const_value.numpy(), stored[name]):
            raise GateError(f"{name} changed on the way into the graph", fix="report this as a bug")
        if not np.isfinite(stored[name].astype(np.float32)).all():
            raise GateError(f"{name} does not fit {value.dtype.name.lower()}", fix="export in float32")
    return stored


def torch_logits(model: nn.Module, frames: np.ndarray, clip: ClipSpec) -> np.ndarray:
    """Float32 logits `[M, K]` of uint8 frames `[M, T, S, S, 3]`, one clip at a time."""
    with torch.inference_mode():
        shown = tqdm(frames, desc="PyTorch", unit="clip", disable=None, leave=False)
        clips = (torch.from_numpy(normalise(own, clip)[None]) for own in shown)
        return np.concatenate([model(clip_BCTSS).float().numpy() for clip_BCTSS in clips])


def compare(
    onnx_path: Path,
    reference: np.ndarray,
    frames: np.ndarray,
    clip: ClipSpec,
    values: Mapping[str, np.ndarray],
    rows: int = 1,
    classes: np.ndarray | None = None,
    session_name: str = "onnxruntime-cpu",
) -> dict[str, Any]:
    """Run the graph in ONNX Runtime on the CPU and compare its logits.

    Args:
        onnx_path: the exported graph.
        reference: logits `[M, K]` of the float32 PyTorch model.
        frames: uint8 `[M, T, S, S, 3]`.
        clip: the input contract.
        values: prompts and head, for those that are inputs.
        rows: clips a run.
        classes: the clips' class numbers `[M]`, where they are known.

    Returns:
        The `agreement`; `centred_cosine` of the logits without their mean over the clips, which plain cosines and
        first labels flatter; `accuracy` before and after, when the classes are known; the reference and the session.
    """
    frugal = session_name == "onnxruntime-cpu"
    session: Session = OrtSession(onnx_path, keep_memory=False) if frugal else SESSIONS[session_name](onnx_path, None)
    starts = tqdm(range(0, len(frames), rows), desc="parity", unit="run", disable=None, leave=False)
    runs = (frames[start : start + rows] for start in starts)
    found = np.concatenate([session.run(feeds(session.inputs, run, clip, values))[OUTPUT] for run in runs])
    report = agreement(reference, found) | {"centred_cosine": _centred_cosine(reference, found)}
    if classes is not None:
        before, after = (float((logits.argmax(1) == classes).mean()) for logits in (reference, found))
        report["accuracy"] = {"before": before, "after": after, "clips": len(classes)}
    return report | {"reference": "PyTorch float32, CPU", "session": session_name}


def _centred_cosine(reference: np.ndarray, found: np.ndarray) -> float | None:
    """None where it is not defined: logits that are not finite, or the same for every clip."""
    one, other = (logits - logits.mean(axis=0, dtype=np.float64) for logits in (reference, found))
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / norms if 0 < norms < np.inf else None


def gate(report: Mapping[str, Any], tolerance: Tolerance) -> None:
    """Raises GateError when a report is beyond the target's tolerance or not finite."""
    broken = failures(report, tolerance.model_dump())
    if broken:
        raise GateError(
            f"parity failed: {'; '.join(broken)}",
            found=f"logits up to {report['max_logit']:.3g} on {report['clips']} clips",
            fix="allow a wider type (precision or repairs of the target), or look for prompts beyond float16",
        )
