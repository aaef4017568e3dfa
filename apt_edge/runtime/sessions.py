"""Which runtime runs an exported model, by name; a runtime is imported when its session is opened."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.open_engine import open_engine
from apt_edge.runtime.openvino import OpenVinoSession
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.session import HoldingSession

# Of graphs; every other runtime of a target runs engines.
SESSIONS: dict[str, Callable[[Path, int | None], HoldingSession]] = {
    "onnxruntime-cpu": OrtSession,
    "onnxruntime-cuda": partial(OrtSession, providers=("CUDAExecutionProvider",)),
    "openvino-float32": OpenVinoSession,
    "openvino-bfloat16": partial(OpenVinoSession, precision="bfloat16"),
}


def session_name(model: ModelDir) -> str:
    """The session of a model's target, in float32 where there is a choice."""
    runtime = str(model.target["runtime"])
    return "openvino-float32" if runtime == "openvino" else runtime


def open_session(model: ModelDir, threads: int | None = None, name: str | None = None) -> HoldingSession:
    """A model in a runtime.

    Args:
        model: the exported model directory.
        threads: of the runtime, all cores when None; engines have none.
        name: of the session; that of the model's target when None.

    Raises:
        MissingDependency: the runtime is not installed.
        ModelError: the graph is damaged; the engine is missing, not trusted, or of another TensorRT or GPU.
        AptEdgeError: there is no GPU, or too little memory.
    """
    name = name or session_name(model)
    return SESSIONS[name](model.onnx, threads) if name in SESSIONS else open_engine(model, name)
