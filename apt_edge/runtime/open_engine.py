"""The engine of an exported model, opened: trusted file, Python package, GPU, in this order."""

from __future__ import annotations

import importlib
from typing import Any

from apt_edge.errors import MissingDependency
from apt_edge.runtime.cuda.find import open_cuda
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.tensorrt import TensorRtSession
from apt_edge.runtime.tensorrt_log import MODULES


def open_engine(model: ModelDir, name: str, graphs: bool = True) -> TensorRtSession:
    """The engine of a model in `tensorrt` or `tensorrt-rtx`, with CUDA graphs or without.

    Raises:
        ModelError: the engine is missing, not trusted, or of another TensorRT or GPU.
        MissingDependency: the runtime's Python package, or one for CUDA, is not installed.
        AptEdgeError: there is no GPU, or too little memory.
    """
    path = model.trusted_engine()
    trt = _load(name)
    # First: without a driver TensorRT's own calls end in long logs, and those of the lean runtime in a crash.
    return TensorRtSession(path, open_cuda(), trt, graphs)


def _load(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        fix = 'pip install "apt-edge[tensorrt-rtx]"'
        if name == "tensorrt":
            fix = (
                "on a Jetson it comes with JetPack (python3-libnvinfer; a virtual environment needs "
                '--system-site-packages), elsewhere pip install "apt-edge[tensorrt]"'
            )
        raise MissingDependency(f"the Python package of {name} is not here", found=str(error), fix=fix) from None
