"""OpenVINO on a CPU behind the `Session` protocol; openvino is imported when a session is made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, Literal

import numpy as np

from apt_edge.errors import AptEdgeError, MissingDependency, ModelError
from apt_edge.runtime.session import FAILED, Held, TensorSpec, check_held, check_run

Precision = Literal["float32", "bfloat16"]

DEVICE = "CPU"
HINTS = {"float32": "f32", "bfloat16": "bf16"}
DTYPES = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "u8": np.uint8,
    "i8": np.int8,
    "i32": np.int32,
    "i64": np.int64,
    "boolean": np.bool_,
}


class OpenVinoSession:
    """An ONNX model in OpenVINO, on the CPU.

    Args:
        model_path: the `.onnx` file.
        threads: threads of one run; all cores when None.
        precision: of the arithmetic, whatever the graph's type is. Left to itself OpenVINO takes bfloat16 where it can.

    Raises:
        MissingDependency: openvino is not installed.
        AptEdgeError: this CPU has no bfloat16.
        ModelError: the file is missing, damaged, or has an operator that OpenVINO lacks.
    """

    def __init__(self, model_path: str | Path, threads: int | None = None, precision: Precision = "float32") -> None:
        openvino, core = _openvino()
        path = Path(model_path)
        if not path.is_file():
            raise ModelError(f"there is no ONNX model at {path}", fix="give the model.onnx of an exported model")
        abilities = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in abilities:
            raise AptEdgeError(
                "this CPU has no bfloat16", found=", ".join(abilities), fix="choose the precision float32"
            )
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # pinned threads ignore the affinity that the process was given
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = core.compile_model(core.read_model(path), DEVICE, options)
        except RuntimeError as error:
            raise ModelError(f"openvino {openvino.__version__} cannot load {path}", found=str(error).strip()) from None
        self._request = compiled.create_infer_request()
        self._running = Lock()  # there is one request, whose outputs the next run writes to
        self.inputs = {port.get_any_name(): _spec(port) for port in compiled.inputs}
        self.outputs = {port.get_any_name(): _spec(port) for port in compiled.outputs}

    def hold(self, values: Mapping[str, np.ndarray]) -> Held:
        """Keep values of some inputs; every run reads these arrays."""
        check_held(self.inputs, values)
        return Held(values, self.inputs)

    def run(self, feeds: Mapping[str, np.ndarray], held: Held | None = None) -> dict[str, np.ndarray]:
        """Run once; `feeds` must have the names, types and shapes of the inputs that are not held, else ModelError."""
        check_run(self.inputs, feeds, held)
        try:
            with self._running:
                results = self._request.infer({**(held.values if held else {}), **feeds}, share_inputs=True)
        except RuntimeError as error:
            raise ModelError("openvino cannot run the graph", found=str(error), fix=FAILED) from None
        return {name: results[name] for name in self.outputs}  # copies


@cache
def _openvino() -> tuple[ModuleType, Any]:
    """The package and the one core of this process.

    The CPU plugin gives the thread that loads it a stack for signals and puts back the one before when its core goes.
    Of two cores, the first one gone first leaves a stack that is no more, and the next signal kills the process
    (openvinotoolkit/openvino src/plugins/intel_cpu/src/plugin.cpp, SigAltStackSetup).
    """
    try:
        import openvino
    except ImportError:
        raise MissingDependency("openvino is not installed", fix="pip install 'apt-edge[openvino]'") from None
    return openvino, openvino.Core()


def _spec(port: Any) -> TensorSpec:
    kind = port.get_element_type().get_type_name()
    if kind not in DTYPES:
        raise ModelError(f"{port.get_any_name()} has type {kind}", fix=f"use one of {', '.join(DTYPES)}")
    shape = tuple(axis.get_length() if axis.is_static else None for axis in port.get_partial_shape())
    return TensorSpec(shape, np.dtype(DTYPES[kind]))
