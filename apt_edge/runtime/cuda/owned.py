"""All that one session has of a device, given back in an order that CUDA and TensorRT allow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from apt_edge.errors import AptEdgeError
from apt_edge.runtime.cuda.backend import CudaBackend


class Buffer(NamedTuple):
    """Device memory, and pinned host memory of the same size through which it is filled or read."""

    address: int
    staging: np.ndarray


class Owned:
    """What a session owns; nobody else keeps TensorRT's objects, so that `release` ends them in their order.

    Attributes:
        stream, events: of the session, two events.
        graphs: key to graph; the key of a task is the address of its block.
        left: blocks that nobody uses any more. Any thread may add some, the next call of the session frees them: a
            finaliser may run in the middle of a capture, where freeing is forbidden.
        runtime, engine, context: of TensorRT.
    """

    def __init__(self, cuda: CudaBackend) -> None:
        self.cuda = cuda
        self.stream = cuda.stream()
        self.events = (cuda.event(), cuda.event())
        self.graphs: dict[int, int] = {}
        self.left: list[int] = []
        self.runtime: Any = None
        self.engine: Any = None
        self.context: Any = None
        self._blocks: list[int] = []
        self._staging: list[np.ndarray] = []

    def malloc(self, size: int) -> int:
        """New device memory; put its address into `left` to give it back."""
        address = self.cuda.malloc(size)
        self._blocks.append(address)
        return address

    def buffer(self, size: int) -> Buffer:
        """New device memory with its staging, kept until the end."""
        address = self.malloc(max(size, 1))
        staging = self.cuda.pinned(max(size, 1))
        self._staging.append(staging)
        return Buffer(address, staging)

    def collect(self) -> None:
        """Free the blocks that are left, after the graphs that read them."""
        while self.left:
            block = self.left.pop()
            graph = self.graphs.pop(block, None)
            if graph is not None:
                self.cuda.destroy_graph(graph)
            self._blocks.remove(block)
            self.cuda.free(block)

    def drop_graphs(self) -> None:
        """End all graphs."""
        while self.graphs:
            self.cuda.destroy_graph(self.graphs.popitem()[1])

    def release(self) -> None:
        """Give back everything: what runs is waited for, then graphs, context, engine, runtime, memory, stream."""
        with suppress(AptEdgeError), self.cuda.current():
            self._each([partial(self.cuda.synchronize, self.stream), self.drop_graphs])
            self.context = None
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
