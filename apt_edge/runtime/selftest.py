"""The self-test on the device: golden clips through what runs there, against the logits of the float32 model.

Shapes: M golden clips, T frames, S size, K classes.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import GateError, ModelError
from apt_edge.files import sha256, write_json
from apt_edge.runtime.agreement import agreement, failures
from apt_edge.runtime.model_dir import GOLDEN, OUTPUT, ModelDir
from apt_edge.runtime.session import TensorSpec
from apt_edge.runtime.sessions import open_session, session_name
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
