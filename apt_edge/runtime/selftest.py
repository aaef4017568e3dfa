"""The self-test on the device: golden clips through what runs there, against the logits of the float32 model.

Shapes: M golden clips, T frames, S size, K classes.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import AptEdgeError, GateError, ModelError
from apt_edge.files import sha256, write_json
from apt_edge.runtime.model_dir import GOLDEN, OUTPUT, ModelDir
from apt_edge.runtime.session import Session, TensorSpec
from apt_edge.runtime.trtexec import read_outputs

REPORT = "selftest.json"


def golden(model: ModelDir) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 `[M, T, S, S, 3]` and float32 logits `[M, K]` that came with the model; raises ModelError."""
    path = model.path / GOLDEN
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["frames"], file["logits"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read", found=str(error), fix="export again") from None


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
    if report["max_abs"] > bound:
        found.append(f"max |logit difference| is {report['max_abs']:.3g}, the target allows {bound:.3g}")
    if report["top1_agreement"] < tolerance["top1_agreement"]:
        found.append(f"the first label agrees on {report['top1_agreement']:.0%} of {report['clips']} clips")
    if report["kl"] > tolerance["kl"]:
        found.append(f"the divergence is {report['kl']:.3g} nats, the target allows {tolerance['kl']:.3g}")
    return found


def open_session(model: ModelDir, threads: int | None = None) -> Session:
    """The model in the runtime of its target: ONNX Runtime or OpenVINO, in float32 where there is a choice.

    Raises:
        AptEdgeError: the target is an engine's, or the runtime is not installed.
    """
    runtime = model.facts["target"]["runtime"]
    if runtime == "openvino":
        from apt_edge.runtime.openvino import OpenVinoSession

        return OpenVinoSession(model.onnx, threads, "float32")
    providers = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}
    if runtime not in providers:
        raise AptEdgeError(f"a model for {runtime} runs as an engine", fix="use the scripts of its bundle")
    from apt_edge.runtime.ort import OrtSession

    return OrtSession(model.onnx, threads, (providers[runtime],))


def session_name(model: ModelDir) -> str:
    """What `open_session` opens, as the bench calls it."""
    runtime = model.facts["target"]["runtime"]
    return "openvino-float32" if runtime == "openvino" else runtime


def session_selftest(model: ModelDir, threads: int | None = None) -> dict[str, Any]:
    """Run the golden clips in the target's runtime; returns the report of `judge` and raises what it raises."""
    session = open_session(model, threads)
    found_MK = np.concatenate([session.run(model.feeds(session.inputs, clip))[OUTPUT] for clip in golden(model)[0]])
    return judge(model, found_MK, session_name(model))


def engine_selftest(model: ModelDir, folder: Path) -> dict[str, Any]:
    """Judge what trtexec made of the inputs of `write_inputs`: `folder`/<clip>/output.json; as `session_selftest`."""
    clips = range(len(golden(model)[0]))
    found = [read_outputs(folder / str(index) / "output.json") for index in clips]
    return judge(model, np.concatenate([outputs[OUTPUT].reshape(1, -1) for outputs in found]), "trtexec")


def write_inputs(model: ModelDir, folder: Path) -> None:
    """Write the golden clips as trtexec's `--loadInputs` reads them: `folder`/<clip>/<input>.bin, raw, C order."""
    inputs = {
        name: TensorSpec(tuple(port["shape"]), np.dtype(port["dtype"])) for name, port in model.facts["inputs"].items()
    }
    shutil.rmtree(folder, ignore_errors=True)  # outputs of an earlier run must not be mistaken for this one's
    for index, frames_TSSC in enumerate(golden(model)[0]):
        clip_folder = folder / str(index)
        clip_folder.mkdir(parents=True)
        for name, array in model.feeds(inputs, frames_TSSC).items():
            np.ascontiguousarray(array).tofile(clip_folder / f"{name}.bin")


def judge(model: ModelDir, found_MK: np.ndarray, session: str) -> dict[str, Any]:
    """Compare logits of the golden clips with the float32 model's and write the report beside the model.

    Args:
        model: the exported model.
        found_MK: what the device computed.
        session: what computed it.

    Returns:
        `passed`, `failures`, `tolerance`, the `agreement`, the sha256 of graph and engine, and `session`.

    Raises:
        GateError: the logits are beyond the target's tolerance.
    """
    reference_MK = golden(model)[1]
    if found_MK.shape != reference_MK.shape:
        raise GateError(
            f"the self-test failed: logits have shape {list(found_MK.shape)}",
            found=f"{GOLDEN} has {list(reference_MK.shape)}",
            fix="export again",
        )
    tolerance = model.facts["target"]["tolerance"]
    measured = agreement(reference_MK, found_MK)
    broken = failures(measured, tolerance)
    report = {"passed": not broken, "failures": broken, "tolerance": tolerance, **measured, **subject(model)}
    report["session"] = session
    write_json(model.path / REPORT, report)
    if broken:
        raise GateError(
            f"the self-test failed: {'; '.join(broken)}",
            found=f"{measured['clips']} golden clips, reference logits up to {measured['max_logit']:.3g}",
            fix="do not use this model here; export it in a wider type (precision or repairs of the target)",
        )
    return report


def subject(model: ModelDir) -> dict[str, Any]:
    """What was tested: sha256 of the graph, and of the engine where there is one."""
    engine = sha256(model.engine) if model.engine.is_file() else None
    return {"onnx_sha256": model.facts["onnx_sha256"], "engine_sha256": engine}


def _log_softmax(logits_MK: np.ndarray) -> np.ndarray:
    shifted = logits_MK.astype(np.float64) - logits_MK.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
