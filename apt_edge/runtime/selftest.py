"""The self-test on the device: golden clips through what runs there, against the logits of the float32 model.

Shapes: M golden clips, T frames, S size, K classes.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import AptEdgeError, GateError, ModelError
from apt_edge.files import sha256, write_json
from apt_edge.runtime.agreement import agreement, failures
from apt_edge.runtime.model_dir import GOLDEN, OUTPUT, ModelDir
from apt_edge.runtime.session import TensorSpec
from apt_edge.runtime.sessions import open_session, session_name
from apt_edge.runtime.trtexec import read_outputs

REPORT = "selftest.json"
OF_TRTEXEC = ("output.json", "trtexec.log")  # what a bundle's selftest.sh puts beside the inputs


def golden(model: ModelDir) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 `[M, T, S, S, 3]` and float32 logits `[M, K]` that came with the model; raises ModelError."""
    path = model.path / GOLDEN
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["frames"], file["logits"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read", found=str(error), fix="export again") from None


def session_selftest(model: ModelDir, threads: int | None = None) -> dict[str, Any]:
    """Run the golden clips in the target's runtime; returns the report of `judge` and raises what it raises."""
    _forget(model)
    session = open_session(model, threads)
    found_MK = np.concatenate([session.run(model.feeds(session.inputs, clip))[OUTPUT] for clip in golden(model)[0]])
    return judge(model, found_MK, session_name(model))


def engine_selftest(model: ModelDir, folder: Path) -> dict[str, Any]:
    """Judge what trtexec made of the inputs of `write_inputs`: `folder`/<clip>/output.json; as `session_selftest`."""
    _forget(model)
    found = []
    for index in range(len(golden(model)[0])):
        path = folder / str(index) / OF_TRTEXEC[0]
        outputs = read_outputs(path)
        if OUTPUT not in outputs:
            raise ModelError(
                f"{path} has no output {OUTPUT}",
                found=", ".join(outputs) or "none",
                fix="build the engine from the model.onnx of this directory, then run the self-test again",
            )
        found.append(outputs[OUTPUT].reshape(1, -1))
    return judge(model, np.concatenate(found), "trtexec")


def write_inputs(model: ModelDir, folder: Path) -> None:
    """Write the golden clips as trtexec's `--loadInputs` reads them: `folder`/<clip>/<input>.bin, raw, C order.

    Raises:
        AptEdgeError: a folder of a clip holds files that are not the self-test's; nothing is removed then.
    """
    _forget(model)
    inputs = {
        name: TensorSpec(tuple(port["shape"]), np.dtype(port["dtype"])) for name, port in model.facts["inputs"].items()
    }
    _clear(folder, {*OF_TRTEXEC, *(f"{name}.bin" for name in inputs)})
    for index, frames_TSSC in enumerate(golden(model)[0]):
        clip_folder = folder / str(index)
        clip_folder.mkdir(parents=True)
        for name, array in model.feeds(inputs, frames_TSSC).items():
            np.ascontiguousarray(array).tofile(clip_folder / f"{name}.bin")


def _clear(folder: Path, own: set[str]) -> None:
    """Remove the clips of an earlier run, whose outputs must not be mistaken for this one's."""
    clips = [path for path in folder.glob("*") if path.name.isdecimal()]
    for path in clips:
        foreign = ["a file"]
        if path.is_dir() and not path.is_symlink():
            foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in own or entry.is_dir())
        if foreign:
            raise AptEdgeError(
                f"{path} is not of an earlier self-test, so it is not replaced",
                found=", ".join(foreign[:5]),
                fix="give a new folder, or move this one away",
            )
    for path in clips:
        shutil.rmtree(path)


def _forget(model: ModelDir) -> None:
    """Remove the last report: a step that breaks off must not leave a verdict behind."""
    (model.path / REPORT).unlink(missing_ok=True)


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
    tolerance = model.target["tolerance"]
    if found_MK.shape == reference_MK.shape:
        measured = agreement(reference_MK, found_MK)
        broken = failures(measured, tolerance)
    else:
        measured = agreement(reference_MK, np.full_like(reference_MK, np.nan))
        broken = [f"logits have shape {list(found_MK.shape)}, those of {GOLDEN} {list(reference_MK.shape)}"]
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
