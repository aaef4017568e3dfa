"""A CUDA backend on the host's memory that records its calls: what is given to a stream happens when it is waited for.

Stricter than a device: memory holds noise until it is written, copies read their source as late as they may, and what
CUDA leaves undefined (freeing what a stream still uses, allocating in a capture) is an AssertionError.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from apt_edge.runtime.cuda.backend import ALIGNMENT, CudaError, call_failed

Work = Callable[[], None]


def at(address: int, size: int) -> np.ndarray:
    """The bytes at an address."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class HostCuda:
    """The backend.

    Attributes:
        log: names of the calls, first to last; those of engines that compute here among them.
        alive: handles and addresses that were not given back, with what made them.
        free_memory: what `memory` tells.
        failing: calls that fail from now on.
        during_capture: called in the middle of each capture.
        graph_room: how many graphs the device has memory for.
    """

    name, capability = "host", "8.7"

    def __init__(self, free_memory: int = 1 << 30, integrated: bool = False) -> None:
        self.log: list[str] = []
        self.alive: dict[int, str] = {}
        self.free_memory, self.integrated = free_memory, integrated
        self.failing: set[str] = set()
        self.during_capture: Work = lambda: None
        self.graph_room = 1 << 30
        self._kept: dict[int, np.ndarray] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._pending: list[Work] = []
        self._captured: list[Work] | None = None
        self._handles, self._depth, self._clock = 0, 0, 0.0
        self._times: dict[int, float] = {}
        self._noise = np.random.default_rng(99)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def memory(self) -> tuple[int, int]:
        return self.free_memory, 1 << 40

    def malloc(self, size: int) -> int:
        return self._allocate("malloc", size)

    def free(self, address: int) -> None:
        self._give_back("free", address, "malloc")

    def pinned(self, size: int) -> np.ndarray:
        return at(self._allocate("pinned", size), size)

    def free_pinned(self, array: np.ndarray) -> None:
        self._give_back("free_pinned", array.ctypes.data, "pinned")

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.flags.c_contiguous
        self._give("upload", stream, lambda: self._move(address, array.ctypes.data, array.nbytes))

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.flags.c_contiguous
        self._give("download", stream, lambda: self._move(array.ctypes.data, address, array.nbytes))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._give("copy", stream, lambda: self._move(target, source, size))

    def stream(self) -> int:
        return self._make("stream")

    def synchronize(self, stream: int) -> None:
        self._called("synchronize")
        assert self._captured is None
        pending, self._pending = self._pending, []
        for work in pending:
            work()

    def destroy_stream(self, stream: int) -> None:
        self._give_back("destroy_stream", stream, "stream")

    def event(self) -> int:
        return self._make("event")

    def record(self, event: int, stream: int) -> None:
        def take() -> None:
            self._clock += 1
            self._times[event] = self._clock

        self._give("record", stream, take)

    def elapsed_ms(self, begin: int, end: int) -> float:
        self.synchronize(0)
        return self._times[end] - self._times[begin]

    def destroy_event(self, event: int) -> None:
        self._give_back("destroy_event", event, "event")

    def capture(self, stream: int, work: Work) -> int:
        self._called("capture")
        self._captured = []
        try:
            self.during_capture()
            work()
            if len(self._graphs) >= self.graph_room:
                raise call_failed("capture", "no room", out_of_memory=True)
            graph = self._make("capture", log=False)
            self._graphs[graph] = self._captured
            return graph
        finally:
            self._captured = None

    def launch(self, graph: int, stream: int) -> None:
        assert self.alive[graph] == "capture"
        self._called("launch")
        self._pending += self._graphs[graph]

    def destroy_graph(self, graph: int) -> None:
        self._give_back("destroy_graph", graph, "capture")

    def kernels(self, stream: int, work: Work) -> None:
        """What an engine gives to a stream."""
        self._give("kernels", stream, work)

    @property
    def capturing(self) -> bool:
        """Whether a capture is under way."""
        return self._captured is not None

    def _give(self, name: str, stream: int, work: Work) -> None:
        assert self.alive[stream] == "stream"
        self._called(name)
        (self._pending if self._captured is None else self._captured).append(work)

    def _move(self, target: int, source: int, size: int) -> None:
        if size:
            at(target, size)[:] = at(source, size)

    def _allocate(self, name: str, size: int) -> int:
        assert size > 0
        assert self._captured is None, "allocating in a capture"
        self._called(name)
        array = self._noise.integers(0, 256, size + ALIGNMENT, np.uint8)
        address = -(-array.ctypes.data // ALIGNMENT) * ALIGNMENT
        self._kept[address], self.alive[address] = array, name
        return address

    def _make(self, name: str, log: bool = True) -> int:
        if log:
            self._called(name)
        self._handles += 1
        self.alive[self._handles] = name
        return self._handles

    def _give_back(self, name: str, handle: int, made_by: str) -> None:
        assert self.alive.pop(handle) == made_by
        assert self._captured is None, "freeing in a capture"
        assert not self._pending, "freeing what a stream may still use"
        self._called(name)
        self._kept.pop(handle, None)
        self._graphs.pop(handle, None)

    def _called(self, name: str) -> None:
        assert self._depth > 0, "no device is current"
        self.log.append(name)
        if name in self.failing:
            raise failure(name)


def failure(name: str) -> CudaError:
    """What a call in `failing` raises."""
    return call_failed(name, "it was told to", out_of_memory=name == "malloc")
