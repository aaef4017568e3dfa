"""CUDA through NVIDIA's own cuda-python: the runtime API, in whose primary context TensorRT works as well."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from apt_edge.errors import AptEdgeError, MissingDependency
from apt_edge.runtime.cuda.backend import CudaError, call_failed, no_device

MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # today's name, and the one of before 12.6


class CudaPython:
    """The first GPU, as `CudaBackend` says.

    Raises:
        MissingDependency: cuda-python is not installed.
        AptEdgeError: there is no GPU, no driver, or the driver is older than this cuda-python.
    """

    name = "cuda-python"

    def __init__(self) -> None:
        self._rt = _runtime()
        self._device = 0
        try:
            count = self._call("cudaGetDeviceCount")
        except CudaError as error:
            raise self._no_device(error.found) from None
        if not count:
            raise self._no_device("no device")
        self.capability = f"{self._attribute('ComputeCapabilityMajor')}.{self._attribute('ComputeCapabilityMinor')}"
        self.integrated = bool(self._attribute("Integrated"))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device this thread's own within a block."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", self._device)
        try:
            yield
        finally:
            if before != self._device:
                self._call("cudaSetDevice", before)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = self._calls("cudaMemGetInfo")
        return int(free), int(total)

    def malloc(self, size: int) -> int:
        """Address of new bytes on the device."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give back device memory."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> np.ndarray:
        """New uint8 `[size]` in pinned host memory."""
        address = int(self._call("cudaHostAlloc", size, self._rt.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, array: np.ndarray) -> None:
        """Give back pinned memory."""
        self._call("cudaFreeHost", array.ctypes.data)

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy from the host."""
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice", stream)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy to the host."""
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost", stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy on the device."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice", stream)

    def stream(self) -> int:
        """A new stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking))

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Give back a stream."""
        self._call("cudaStreamDestroy", stream)

    def event(self) -> int:
        """A new event."""
        return int(self._call("cudaEventCreateWithFlags", self._rt.cudaEventDefault))

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Wait for `end`; milliseconds since `begin`."""
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", begin, end))

    def destroy_event(self, event: int) -> None:
        """Give back an event."""
        self._call("cudaEventDestroy", event)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """A graph of what `work` gives the stream."""
        # Of this thread alone: others, which serve other tasks, may go on allocating meanwhile.
        self._call("cudaStreamBeginCapture", stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            with suppress(CudaError):
                self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream))
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiateWithFlags", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give back a graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size, getattr(self._rt.cudaMemcpyKind, kind), stream)

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._rt.cudaDeviceAttr, f"cudaDevAttr{name}")
        return int(self._call("cudaDeviceGetAttribute", attribute, self._device))

    def _call(self, name: str, *arguments: Any) -> Any:
        """The one result of a call; None where it has none."""
        values = self._calls(name, *arguments)
        return values[0] if values else None

    def _calls(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *values = getattr(self._rt, name)(*arguments)
        if error != self._rt.cudaError_t.cudaSuccess:
            _, text = self._rt.cudaGetErrorString(error)
            self._rt.cudaGetLastError()  # or TensorRT would find it at its own next call
            full = error == self._rt.cudaError_t.cudaErrorMemoryAllocation
            raise call_failed(name, f"{text.decode()} ({int(error)})", out_of_memory=full)
        return tuple(values)

    def _no_device(self, found: str) -> AptEdgeError:
        _, driver = self._rt.cudaDriverGetVersion()
        _, own = self._rt.cudaRuntimeGetVersion()
        if driver and own // 1000 > driver // 1000:
            return no_device(
                self.name,
                f"a driver for CUDA {driver // 1000}, a cuda-python for CUDA {own // 1000}",
                f'pip install "cuda-python=={driver // 1000}.*", or update the driver',
            )
        return no_device(self.name, found)


def _runtime() -> Any:
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingDependency("cuda-python is not installed", fix='pip install "apt-edge[cuda]"')
