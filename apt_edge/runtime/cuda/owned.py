"""All that one session has of a device, given back in an order that CUDA and TensorRT allow."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from apt_edge.errors import AptEdgeError
from apt_edge.runtime.cuda.backend import CudaBackend

GraphKey = tuple[Hashable, int]  # shapes of the inputs, block of the task


class Buffer(NamedTuple):
    """Device memory, and pinned host memory of the same size through which it is filled or read."""

    address: int
    staging: np.ndarray


class Owned:
    """What a session owns; nobody else keeps TensorRT's objects, so that `release` ends them in their order.

    Attributes:
        stream, events: of the session, two events.
        graphs: the one that was used longest ago first.
        warm: keys of runs that were launched one by one, and may be captured.
        left: blocks that nobody uses any more. Any thread may add some, the next call of the session frees them: a
            finaliser may run in the middle of a capture, where freeing is forbidden.
        runtime, engine: of TensorRT.
        contexts: of TensorRT, by the shapes that they have; the one that was used longest ago first.
        release: gives back everything, once: when it is called, or when the process ends, before the device's own
            finaliser; `release.alive` until then.
    """

    def __init__(self, cuda: CudaBackend) -> None:
        self.cuda = cuda
        self.graphs: OrderedDict[GraphKey, int] = OrderedDict()
        self.warm: set[GraphKey] = set()
        self.left: list[int] = []
        self.runtime: Any = None
        self.engine: Any = None
        self.contexts: OrderedDict[Hashable, Any] = OrderedDict()
        self.events: list[int] = []
        self._blocks: list[int] = []
        self._staging: list[np.ndarray] = []
        self.stream = cuda.stream()
        self.release = weakref.finalize(Owned, self._release)
        try:
            for _ in range(2):
                self.events.append(cuda.event())
        except BaseException:
            self.release()
            raise

    def malloc(self, size: int) -> int:
        """New device memory; put its address into `left` to give it back."""
        address = self.cuda.malloc(size)
        self._blocks.append(address)
        return address

    def buffer(self, size: int) -> Buffer:
        """New device memory with its staging, kept until the end."""
        address = self.malloc(max(size, 1))
        try:
            staging = self.cuda.pinned(max(size, 1))
        except BaseException:
            self.left.append(address)
            raise
        self._staging.append(staging)
        return Buffer(address, staging)

    def collect(self) -> None:
        """Free the blocks that are left, after the graphs that read them; nothing of the session may be running."""
        while self.left:
            block = self.left.pop()
            self.drop(key for key in (*self.graphs, *self.warm) if key[1] == block)
            self._blocks.remove(block)
            self.cuda.free(block)

    def drop(self, keys: Iterable[GraphKey]) -> None:
        """End the graphs of these keys, after what the stream still has to do, and forget that these ran."""
        for key in [*keys]:
            self.warm.discard(key)
            graph = self.graphs.pop(key, None)
            if graph is not None:
                self.cuda.synchronize(self.stream)
                self.cuda.destroy_graph(graph)

    def drop_oldest(self) -> None:
        """End the graph that was used longest ago."""
        self.drop([next(iter(self.graphs))])

    def _release(self) -> None:
        """What runs is waited for, then go graphs, contexts, engine, runtime, memory, events, stream."""
        with suppress(AptEdgeError), self.cuda.current():
            graphs = [partial(self.cuda.destroy_graph, graph) for graph in self.graphs.values()]
            self._each([partial(self.cuda.synchronize, self.stream), *graphs])
            self.graphs.clear()
            self.contexts.clear()
            self.engine = None
            self.runtime = None
            steps: list[Callable[[], None]] = [partial(self.cuda.free, block) for block in self._blocks]
            steps += [partial(self.cuda.free_pinned, array) for array in self._staging]
            steps += [partial(self.cuda.destroy_event, event) for event in self.events]
            self._each([*steps, partial(self.cuda.destroy_stream, self.stream)])
            self._blocks, self._staging = [], []

    @staticmethod
    def _each(steps: list[Callable[[], None]]) -> None:
        """Do every step: one that fails, as all do on a device that has failed, keeps none from being tried."""
        for step in steps:
            with suppress(AptEdgeError):
                step()


LEFT: list[Owned] = []  # of sessions that nobody uses any more


def release_left() -> None:
    """Release what is in `LEFT`. Finalisers only add to it, for they may run in the middle of any session's capture."""
    while LEFT:
        try:
            owned = LEFT.pop()
        except IndexError:  # another thread was faster
            return
        owned.release()
