"""ONNX Runtime behind the `Session` protocol; onnxruntime is imported when a session is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from apt_edge.errors import AptEdgeError, MissingDependency, ModelError
from apt_edge.runtime.session import FAILED, Held, TensorSpec, check_held, check_run

CPU = "CPUExecutionProvider"
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OrtSession:
    """An ONNX model in ONNX Runtime.

    Args:
        model_path: the `.onnx` file.
        threads: threads within one operator; all cores when None.
        providers: execution providers. They run the whole graph or nothing does: another one never steps in.
        keep_memory: whether buffers are kept from run to run, which is faster and takes more.
        yields: threads wait for the next run asleep. By default they go on spinning for a while after a run, on cores
            that whoever runs next then has to share: right for a server, wrong for one session among others.

    Raises:
        MissingDependency: onnxruntime is not installed.
        AptEdgeError: this onnxruntime lacks a provider, or the provider cannot run the graph alone.
        ModelError: the file is missing, damaged or newer than onnxruntime.
    """

    def __init__(
        self,
        model_path: str | Path,
        threads: int | None = None,
        providers: Sequence[str] = (CPU,),
        keep_memory: bool = True,
        yields: bool = False,
    ) -> None:
        ort = _onnxruntime()
        path = Path(model_path)
        if not path.is_file():
            raise ModelError(f"there is no ONNX model at {path}", fix="give the model.onnx of an exported model")
        lacking = [name for name in providers if name not in ort.get_available_providers()]
        if lacking or not providers:
            raise AptEdgeError(
                f"this onnxruntime has no {', '.join(lacking) or 'provider to use'}",
                found=", ".join(ort.get_available_providers()),
                fix="choose one of these, or install the onnxruntime package that has it (apt-edge[gpu] for CUDA)",
            )
        self._session = _load(ort, path, threads, list(providers), keep_memory, yields)
        self._device = "cuda" if providers[0].startswith("CUDA") else "cpu"
        self.inputs = {port.name: _spec(port) for port in self._session.get_inputs()}
        self.outputs = {port.name: _spec(port) for port in self._session.get_outputs()}

    def hold(self, values: Mapping[str, np.ndarray]) -> Held:
        """Put values of some inputs on the provider's device; on a CPU the arrays themselves are read."""
        check_held(self.inputs, values)
        return Held(values, self.inputs) if self._device == "cpu" else _Bound(values, self.inputs, self._device)

    def run(self, feeds: Mapping[str, np.ndarray], held: Held | None = None) -> dict[str, np.ndarray]:
        """Run once; `feeds` must have the names, types and shapes of the inputs that are not held, else ModelError."""
        check_run(self.inputs, feeds, held)
        try:
            if isinstance(held, _Bound) and held.inputs is self.inputs:
                results = held.run(self._session, feeds, self.outputs)
            else:
                results = self._session.run(None, {**(held.values if held else {}), **feeds})
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise ModelError("onnxruntime cannot run the graph", found=str(error), fix=FAILED) from None
        return dict(zip(self.outputs, results, strict=True))


class _Bound(Held):
    """Values on a GPU, for an IO binding a run: a binding would keep the clip of its last run alive."""

    def __init__(self, values: Mapping[str, np.ndarray], inputs: Mapping[str, TensorSpec], device: str) -> None:
        super().__init__(values, inputs)
        make = _onnxruntime().OrtValue.ortvalue_from_numpy
        self._kept = {name: make(array, device, 0) for name, array in self._values.items()}
        self._values = {}  # one copy is enough

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        return {name: value.numpy() for name, value in self._kept.items()}

    def run(self, session: Any, feeds: Mapping[str, np.ndarray], outputs: Iterable[str]) -> list[np.ndarray]:
        """Run with the host's `feeds` beside the values; outputs come back to the host."""
        binding = session.io_binding()
        for name, value in self._kept.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependency(
            "onnxruntime is not installed", fix="pip install 'apt-edge[onnxruntime]' (or apt-edge[gpu])"
        ) from None
    return onnxruntime


def _load(
    ort: ModuleType, path: Path, threads: int | None, providers: list[str], keep_memory: bool, yields: bool
) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # warnings about constant folding would land on stderr between results
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = keep_memory
    # As soon as its inputs are there: the usual order may keep results of all layers alive until the end.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if yields:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if CPU not in providers:
        # By default ONNX Runtime moves what a provider cannot run to the CPU, and says nothing.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        if "disable_cpu_ep_fallback" in str(error) or "fallback to CPU" in str(error):
            raise AptEdgeError(
                f"{', '.join(providers)} cannot run all of {path}",
                found=str(error),
                fix=f"choose another provider, or add {CPU} to let it take the rest",
            ) from None
        raise ModelError(f"onnxruntime {ort.__version__} cannot load {path}", found=str(error)) from None
    if missing := [name for name in providers if name not in session.get_providers()]:
        raise AptEdgeError(
            f"onnxruntime could not start {', '.join(missing)}",
            found=f"{', '.join(session.get_providers())} instead",
            fix="check the provider's libraries and the device's driver",
        )
    return session


def _spec(port: Any) -> TensorSpec:
    if port.type not in DTYPES:
        raise ModelError(f"{port.name} has type {port.type}", fix=f"use one of {', '.join(DTYPES)}")
    shape = tuple(length if isinstance(length, int) else None for length in port.shape)
    return TensorSpec(shape, np.dtype(DTYPES[port.type]))
