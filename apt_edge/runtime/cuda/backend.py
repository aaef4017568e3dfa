"""What a session asks of CUDA, whatever package answers; and the errors of that. numpy alone.

Addresses, streams, events and graphs are plain integers, as TensorRT takes them. Every call is made with the device's
context current (`current`), and raises CudaError when CUDA returns an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from apt_edge.errors import AptEdgeError

ALIGNMENT = 256  # of every address that TensorRT is given (NvInfer.h, setTensorAddress), and of every allocation
MEMORY = Path("/proc/meminfo")


class CudaError(AptEdgeError):
    """A call of CUDA returned an error."""


class OutOfMemory(CudaError):
    """The device has no memory for it."""


def call_failed(call: str, found: str, out_of_memory: bool) -> CudaError:
    """The error of a call that failed."""
    if out_of_memory:
        fix = "close other programs on this device, unload tasks, or take a smaller batch"
        return OutOfMemory(f"CUDA failed in {call}", found=found, fix=fix)
    fix = "look at the messages before this one; a device that has failed needs a new process"
    return CudaError(f"CUDA failed in {call}", found=found, fix=fix)


def no_device(package: str, found: str, fix: str = "") -> AptEdgeError:
    """The error of a machine without a GPU, or with a driver that is not there or too old."""
    usual = "run engines where nvidia-smi (on a Jetson: tegrastats) shows a GPU; in a container, hand the GPU to it"
    return AptEdgeError(f"{package} finds no NVIDIA GPU that it can use", found=found, fix=fix or usual)


class CudaBackend(Protocol):
    """One device.

    Attributes:
        name: package that makes the calls.
        capability: compute capability, like `8.7`.
        integrated: whether the device shares its memory with the host, as on a Jetson.
    """

    name: str
    capability: str
    integrated: bool

    def current(self) -> AbstractContextManager[None]:
        """Make the device this thread's own within a block; any thread may, and gets back what it had before."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, as CUDA counts them."""
        ...

    def malloc(self, size: int) -> int:
        """Address of `size` new bytes on the device, a multiple of `ALIGNMENT`."""
        ...

    def free(self, address: int) -> None:
        """Give back what `malloc` returned."""
        ...

    def pinned(self, size: int) -> np.ndarray:
        """New uint8 `[size]` in pages that stay in memory: copies from and to them do not hold up the host."""
        ...

    def free_pinned(self, array: np.ndarray) -> None:
        """Give back what `pinned` returned; no view of it may be used any more."""
        ...

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the device, in the order of the stream."""
        ...

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy from the device into a contiguous array, in the order of the stream."""
        ...

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy on the device, in the order of the stream."""
        ...

    def stream(self) -> int:
        """A new stream that waits for no other one."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until all that the stream was given is done; raises CudaError when some of it failed."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give back what `stream` returned."""
        ...

    def event(self) -> int:
        """A new event that takes the time."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Take the time when the stream gets here."""
        ...

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Wait for `end`; milliseconds since `begin`."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give back what `event` returned."""
        ...

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """A graph of what `work` gives the stream, which is not run; the capture ends whatever `work` raises."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph, in the order of the stream."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give back what `capture` returned."""
        ...


def check_room(cuda: CudaBackend, size: int, what: str, fix: str) -> None:
    """Raise AptEdgeError unless the device has `size` free bytes for `what`; `fix` says how to need fewer."""
    free = free_bytes(cuda)
    if size > free:
        raise AptEdgeError(
            f"the device has too little memory for {what}",
            found=f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
            fix=fix,
        )


def free_bytes(cuda: CudaBackend, meminfo: Path = MEMORY) -> int:
    """Bytes that an allocation may take.

    Where host and device share their memory, CUDA does not count what the system only keeps in its caches
    (CUDA for Tegra, application note, "Estimating total allocatable device memory").
    """
    free = cuda.memory()[0]
    if cuda.integrated and meminfo.is_file():
        found = re.search(r"^MemAvailable: +(\d+) kB", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
        free = max(free, 1024 * int(found[1])) if found else free
    return free
