"""The parity gate: an exported graph against the float32 PyTorch model, on real clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor

from apt_edge.errors import GateError
from apt_edge.runtime.ort import OrtSession
from export.target import Tolerance
from export.graph.trace import INPUT, OUTPUT

Forward = Callable[[Tensor], Tensor]


def check_prompts(onnx_path: Path, constants: Mapping[str, np.ndarray]) -> None:
    """Read the graph back: every prompt must be an initializer of its name, equal to the last bit. Raises GateError."""
    graph = onnx.load(str(onnx_path)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for name, expected in constants.items():
        if name not in stored:
            raise GateError(f"the prompt {name} is not in the exported graph", fix="report this as a bug")
        if not np.array_equal(onnx.numpy_helper.to_array(stored[name], str(onnx_path.parent)), expected):
            raise GateError(f"the prompt {name} changed on the way into the graph", fix="report this as a bug")


def torch_logits(forward: Forward, clips: np.ndarray) -> np.ndarray:
    """Float32 logits `[M, K]` of clips `[M, 3, T, H, W]`, one clip at a time."""
    with torch.inference_mode():
        return np.concatenate([forward(torch.from_numpy(clip[None])).float().numpy() for clip in clips])


def compare(onnx_path: Path, reference: np.ndarray, clips: np.ndarray) -> dict[str, Any]:
    """Run the graph in ONNX Runtime on the CPU and compare its logits.

    A float16 graph is rounded to half between operations there, but products accumulate in float32: the report says
    what the types in the graph cost, not how a GPU's kernels accumulate.

    Args:
        onnx_path: the exported graph.
        reference: logits `[M, K]` of the float32 PyTorch model.
        clips: `[M, 3, T, H, W]` float32.

    Returns:
        The parity report: `max_abs`, `mean_abs` (logits), `max_logit`, `kl` (nats, mean), `top1_agreement`, `clips`.
    """
    session = OrtSession(onnx_path)
    found = np.concatenate([session.run({INPUT: clip[None]})[OUTPUT] for clip in clips])
    difference = np.abs(found - reference)
    return {
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "max_logit": float(np.abs(reference).max()),
        "kl": _kl(reference, found),
        "top1_agreement": float((found.argmax(1) == reference.argmax(1)).mean()),
        "clips": len(clips),
        "reference": "PyTorch float32, CPU",
        "session": "ONNX Runtime, CPU",
    }


def gate(report: Mapping[str, Any], tolerance: Tolerance) -> None:
    """Raises GateError when a report is beyond the target's tolerance or not finite."""
    bound = tolerance.max_abs * max(1.0, report["max_logit"])
    if not report["max_abs"] <= bound:  # also catches NaN
        raise GateError(
            f"parity failed: max |logit difference| is {report['max_abs']:.3g}, the target allows {bound:.3g}",
            found=f"logits up to {report['max_logit']:.3g} on {report['clips']} clips",
            fix="export in float32, or look for prompts or activations beyond float16",
        )
    if report["top1_agreement"] < tolerance.top1_agreement:
        raise GateError(
            f"parity failed: the first label agrees on {report['top1_agreement']:.1%} of {report['clips']} clips",
            found=f"max |logit difference| {report['max_abs']:.3g}",
            fix=f"the target asks for {tolerance.top1_agreement:.1%}: export in float32",
        )


def _kl(reference: np.ndarray, found: np.ndarray) -> float:
    p, q = _log_softmax(reference), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
