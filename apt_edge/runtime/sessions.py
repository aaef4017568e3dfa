"""Which runtime runs an exported graph, by name; a runtime is imported when its session is opened."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from apt_edge.errors import AptEdgeError
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.openvino import OpenVinoSession
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.session import HoldingSession

SESSIONS: dict[str, Callable[[Path, int | None], HoldingSession]] = {
    "onnxruntime-cpu": OrtSession,
    "onnxruntime-cuda": partial(OrtSession, providers=("CUDAExecutionProvider",)),
    "openvino-float32": OpenVinoSession,
    "openvino-bfloat16": partial(OpenVinoSession, precision="bfloat16"),
}


def session_name(model: ModelDir) -> str:
    """The session of a model's target, in float32 where there is a choice; raises AptEdgeError for an engine's."""
    runtime = str(model.target["runtime"])
    name = "openvino-float32" if runtime == "openvino" else runtime
    if name not in SESSIONS:
        raise AptEdgeError(
            f"{model.path} is for {runtime}, which runs engines",
            fix="use the scripts of its bundle (export.to_bundle), or export for onnxruntime-cpu as well",
        )
    return name


def open_session(model: ModelDir, threads: int | None = None) -> HoldingSession:
    """A model in the runtime of its target; raises AptEdgeError when that is not installed or runs engines."""
    return SESSIONS[session_name(model)](model.onnx, threads)
