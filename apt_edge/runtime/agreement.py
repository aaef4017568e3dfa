"""How far logits are from those of the float32 model, and whether that is near enough: at export and on the device.

Shapes: M clips, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def agreement(reference_MK: np.ndarray, found_MK: np.ndarray) -> dict[str, Any]:
    """How far logits are from the reference.

    Returns:
        `max_abs`, `mean_abs`, `kl` (of the class probabilities, nats, mean), `top1_agreement` (share of clips with the
        same first label), each None where a logit is not finite; `max_logit` of the reference, `clips`.
    """
    report: dict[str, Any] = {"max_abs": None, "mean_abs": None, "kl": None, "top1_agreement": None}
    if np.isfinite(found_MK).all():
        difference_MK = np.abs(found_MK.astype(np.float64) - reference_MK)
        p, q = _log_softmax(reference_MK), _log_softmax(found_MK)
        report = {
            "max_abs": float(difference_MK.max()),
            "mean_abs": float(difference_MK.mean()),
            "kl": float((np.exp(p) * (p - q)).sum(axis=1).mean()),
            "top1_agreement": float((found_MK.argmax(1) == reference_MK.argmax(1)).mean()),
        }
    return report | {"max_logit": float(np.abs(reference_MK).max()), "clips": len(reference_MK)}


def failures(report: Mapping[str, Any], tolerance: Mapping[str, float]) -> list[str]:
    """Which bounds of a target's `tolerance` an `agreement` breaks, in words; empty when it holds."""
    if report["max_abs"] is None:
        return ["logits are not finite"]
    found = []
    bound = tolerance["max_abs"] * max(1.0, report["max_logit"])
    if not report["max_abs"] <= bound:
        found.append(f"max |logit difference| is {report['max_abs']:.3g}, the target allows {bound:.3g}")
    if not report["top1_agreement"] >= tolerance["top1_agreement"]:
        found.append(f"the first label agrees on {report['top1_agreement']:.0%} of {report['clips']} clips")
    if not report["kl"] <= tolerance["kl"]:
        found.append(f"the divergence is {report['kl']:.3g} nats, the target allows {tolerance['kl']:.3g}")
    return found


def _log_softmax(logits_MK: np.ndarray) -> np.ndarray:
    shifted = logits_MK.astype(np.float64) - logits_MK.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
