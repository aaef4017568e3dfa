"""CUDA through pycuda, in the device's primary context, which the runtime API and so TensorRT uses.

`pycuda.autoinit` would make a context of its own, in which nothing of TensorRT's is known. pycuda knows no graphs:
those calls go to the driver itself.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from apt_edge.errors import MissingDependency
from apt_edge.runtime.cuda.backend import CudaError, call_failed, no_device

NAME, DRIVER = "pycuda", "libcuda.so.1"
# Of cuda.h: CU_STREAM_NON_BLOCKING, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CUDA_ERROR_OUT_OF_MEMORY.
NON_BLOCKING, THREAD_LOCAL, OUT_OF_MEMORY = 1, 1, 2


class PyCuda:
    """The first GPU, as `CudaBackend` says.

    Raises:
        MissingDependency: pycuda is not installed.
        AptEdgeError: there is no GPU, or no driver.
    """

    name = NAME

    def __init__(self) -> None:
        self._drv = _driver_module()
        try:
            self._drv.init()
            device = self._drv.Device(0)
            self._context = device.retain_primary_context()
        except self._drv.Error as error:
            raise no_device(NAME, str(error)) from None
        weakref.finalize(self, self._context.detach)  # left to itself pycuda detaches it as if it were no primary one
        self._driver = ctypes.CDLL(DRIVER)  # the one that pycuda has loaded
        attribute = self._drv.device_attribute
        self.capability = ".".join(map(str, device.compute_capability()))
        self.integrated = bool(device.get_attribute(attribute.INTEGRATED))
        # pycuda's objects free themselves when nobody keeps them.
        self._blocks: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._count = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device this thread's own within a block."""
        with self._checked("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        finally:
            self._drv.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        with self._checked("cuMemGetInfo"):
            free, total = self._drv.mem_get_info()
        return int(free), int(total)

    def malloc(self, size: int) -> int:
        """Address of new bytes on the device."""
        with self._checked("cuMemAlloc"):
            block = self._drv.mem_alloc(size)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """Give back device memory."""
        with self._checked("cuMemFree"):
            self._blocks.pop(address).free()

    def pinned(self, size: int) -> np.ndarray:
        """New uint8 `[size]` in pinned host memory."""
        with self._checked("cuMemHostAlloc"):
            return self._drv.pagelocked_empty(size, np.uint8)

    def free_pinned(self, array: np.ndarray) -> None:
        """Give back pinned memory."""
        assert array.base is not None  # pycuda's allocation
        with self._checked("cuMemFreeHost"):
            array.base.free()  # type: ignore[attr-defined]

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy from the host."""
        with self._checked("cuMemcpyHtoDAsync"):
            self._drv.memcpy_htod_async(address, array, self._streams[stream])

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy to the host."""
        with self._checked("cuMemcpyDtoHAsync"):
            self._drv.memcpy_dtoh_async(array, address, self._streams[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy on the device."""
        with self._checked("cuMemcpyDtoDAsync"):
            self._drv.memcpy_dtod_async(target, source, size, self._streams[stream])

    def stream(self) -> int:
        """A new stream."""
        with self._checked("cuStreamCreate"):
            stream = self._drv.Stream(NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        with self._checked("cuStreamSynchronize"):
            self._streams[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        """Give back a stream."""
        del self._streams[stream]

    def event(self) -> int:
        """A new event."""
        with self._checked("cuEventCreate"):
            event = self._drv.Event()
        self._count += 1  # events of pycuda have no handle
        self._events[self._count] = event
        return self._count

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        with self._checked("cuEventRecord"):
            self._events[event].record(self._streams[stream])

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Wait for `end`; milliseconds since `begin`."""
        with self._checked("cuEventElapsedTime"):
            self._events[end].synchronize()
            return float(self._events[begin].time_till(self._events[end]))

    def destroy_event(self, event: int) -> None:
        """Give back an event."""
        del self._events[event]

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """A graph of what `work` gives the stream."""
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(THREAD_LOCAL))
        try:
            work()
        except BaseException:
            with suppress(CudaError):
                self._call("cuGraphDestroy", self._end_capture(stream))
            raise
        graph, made = self._end_capture(stream), ctypes.c_void_p()
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(made), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        assert made.value is not None
        return made.value

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Give back a graph."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _end_capture(self, stream: int) -> ctypes.c_void_p:
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return graph

    def _call(self, name: str, *arguments: Any) -> None:
        error = getattr(self._driver, name)(*arguments)
        if error:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(error), ctypes.byref(text))
            raise call_failed(name, f"{(text.value or b'unknown error').decode()} ({error})", error == OUT_OF_MEMORY)

    @contextmanager
    def _checked(self, name: str) -> Iterator[None]:
        """pycuda's errors as ours."""
        try:
            yield
        except self._drv.Error as error:
            raise call_failed(name, str(error), isinstance(error, self._drv.MemoryError)) from None


def _driver_module() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise MissingDependency(
            "pycuda is not installed", fix='pip install "apt-edge[pycuda]", which compiles it with nvcc'
        ) from None
    except ImportError as error:  # its library needs the driver's
        raise no_device(NAME, str(error)) from None
