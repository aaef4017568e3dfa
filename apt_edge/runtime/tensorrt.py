"""TensorRT 8.6 to 11 and TensorRT-RTX behind the `Session` protocol, on the calls that all of them have.

Order, as enqueueV3 and the capture of CUDA graphs need it (TensorRT developer guide, "CUDA graphs"): shapes of all
inputs, which make those of the outputs known; addresses of all; one run launch by launch, which settles what follows
from the shapes; then the capture. A graph freezes the addresses, so each task has its own, and the shapes, so each set
of shapes has its own context, which keeps them: tasks with other numbers of prompts or classes take turns without
losing their graphs. Contexts and graphs that were used longest ago make room for new ones. What runs is always the same
engine; a graph only launches its kernels at once.
"""

from __future__ import annotations

import math
import mmap
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import ModelError
from apt_edge.runtime.cuda.backend import ALIGNMENT, CudaBackend, CudaError, OutOfMemory, check_room
from apt_edge.runtime.cuda.owned import LEFT, Buffer, GraphKey, Owned, release_left
from apt_edge.runtime.session import Held, check_feeds, check_held
from apt_edge.runtime.tensorrt_contexts import (
    Shaped,
    Shapes,
    activation_bytes,
    capturable,
    create_context,
    give_memory,
    most_contexts,
)
from apt_edge.runtime.tensorrt_log import logger
from apt_edge.runtime.tensorrt_ports import read_ports

REBUILD = (
    "an engine belongs to the TensorRT and the GPU that built it: build it again here, with build.sh of its bundle "
    "or export.to_engine"
)
SMALLER = "close other programs on this device, or build the engine again with a smaller batch or WORKSPACE"
NO_TASK = 0  # block of the graphs whose inputs are all fed
GRAPHS = 128  # at once: each takes memory of the device and of the host


class TensorRtSession:
    """An engine, loaded and ready. One thread at a time may use it, and any thread may.

    Args:
        engine_path: the plan, as TensorRT wrote it.
        cuda: the device.
        trt: the package `tensorrt` or `tensorrt_rtx`.
        graphs: replay CUDA graphs from the second run of a task on; else launch kernel by kernel.

    Raises:
        ModelError: the file is missing, of another TensorRT or GPU, or has inputs that cannot be fed from here.
        AptEdgeError: the device has too little memory.
    """

    def __init__(self, engine_path: str | Path, cuda: CudaBackend, trt: Any, graphs: bool = True) -> None:
        self._path, self._cuda, self._trt = Path(engine_path), cuda, trt
        if not self._path.is_file() or not self._path.stat().st_size:
            raise ModelError(
                f"there is no engine at {self._path}", fix="build it on this device: build.sh of its bundle"
            )
        self.graphs, self._log = graphs, logger(trt)
        with cuda.current():
            release_left()
            self._owned = Owned(cuda)
            self.close = self._owned.release
            weakref.finalize(self, LEFT.append, self._owned).atexit = False  # it is released then
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def hold(self, values: Mapping[str, np.ndarray]) -> Held:
        """Copy values of some inputs to the device, once for all runs.

        Raises:
            ModelError: they do not fit these inputs.
            AptEdgeError: the device has too little memory.
        """
        check_held(self.inputs, values)
        self._ports.check_profiles(values)
        arrays = {name: np.ascontiguousarray(array) for name, array in values.items()}
        offsets, size = _layout(arrays)
        with self._cuda.current():
            self._begin()
            check_room(self._cuda, size, "another task", "unload tasks, or close other programs on this device")
            block = self._owned.malloc(size)
            try:
                for name, array in arrays.items():
                    self._cuda.upload(block + offsets[name], array, self._owned.stream)
                self._cuda.synchronize(self._owned.stream)  # the caller may change the arrays from here on
            except BaseException:
                with suppress(CudaError):  # the copies that were begun still read the arrays
                    self._cuda.synchronize(self._owned.stream)
                self._owned.left.append(block)
                raise
        return _OnDevice(arrays, self._owned, block, {name: block + offset for name, offset in offsets.items()})

    def run(self, feeds: Mapping[str, np.ndarray], held: Held | None = None) -> dict[str, np.ndarray]:
        """Run once; `feeds` must have the names, types and shapes of the inputs that are not held, else ModelError."""
        with self._cuda.current():
            shaped, addresses, block = self._place(feeds, held)
            self._start(shaped, addresses, block)
            found = {}
            for name, buffer in self._outputs.items():
                shape = shaped.outputs[name]
                staged = buffer.staging[: math.prod(shape) * self.outputs[name].dtype.itemsize]
                self._cuda.download(staged, buffer.address, self._owned.stream)
                found[name] = staged.view(self.outputs[name].dtype).reshape(shape)
            self._cuda.synchronize(self._owned.stream)
        return {name: array.copy() for name, array in found.items()}  # the next run writes there again

    def compute_ms(self, feeds: Mapping[str, np.ndarray], held: Held | None = None) -> float:
        """Run once; ms from the launch to the last kernel, as trtexec's GPU compute time. Two runs warm it up."""
        with self._cuda.current():
            shaped, addresses, block = self._place(feeds, held)
            begin, end = self._owned.events
            self._cuda.record(begin, self._owned.stream)
            self._start(shaped, addresses, block)
            self._cuda.record(end, self._owned.stream)
            return self._cuda.elapsed_ms(begin, end)

    def _open(self) -> None:
        size = self._path.stat().st_size
        check_room(self._cuda, size, f"the weights of {self._path}", SMALLER)
        self._owned.runtime = runtime = self._trt.Runtime(self._log)
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            self._owned.engine = engine = self._told(runtime.deserialize_cuda_engine(plan), "cannot load", REBUILD)
        self._ports = read_ports(self._trt, engine, self._path)
        self.inputs, self.outputs = self._ports.inputs, self._ports.outputs
        self._memory_size = activation_bytes(engine)
        check_room(self._cuda, self._memory_size, f"the activations of {self._path}", SMALLER)
        self._memory = self._owned.malloc(max(self._memory_size, 1))
        self._most_contexts = most_contexts(engine)
        self._buffers: dict[str, Buffer] = {}  # of inputs that were fed once
        largest = self._shaped({name: self._ports.profile(name).most for name in self.inputs})
        self._outputs = {
            name: self._owned.buffer(math.prod(largest.outputs[name]) * spec.dtype.itemsize)
            for name, spec in self.outputs.items()
        }

    def _begin(self) -> None:
        """Before anything else in every call: nothing of the last one runs on, and what was left is given back."""
        if not self.close.alive:
            raise ModelError("the session is closed", found=str(self._path), fix="open the model again")
        release_left()
        with suppress(CudaError):  # of a run that failed halfway
            self._cuda.synchronize(self._owned.stream)
        self._owned.collect()

    def _place(self, feeds: Mapping[str, np.ndarray], held: Held | None) -> tuple[Shaped, dict[str, int], int]:
        """Check everything and send the feeds to the device; context, addresses of all inputs, block of the task."""
        self._begin()
        here = held if isinstance(held, _OnDevice) and held.owner is self._owned else None
        if held is not None and here is None:
            feeds = {**held.values, **feeds}  # on the host still
        kept = here.addresses if here else {}
        check_feeds({name: spec for name, spec in self.inputs.items() if name not in kept}, feeds)
        self._ports.check_profiles(feeds)
        shaped = self._shaped({**{name: array.shape for name, array in feeds.items()}, **(here.shapes if here else {})})
        for name, array in feeds.items():
            if name not in self._buffers:
                size = math.prod(self._ports.profile(name).most) * array.itemsize
                check_room(self._cuda, size, f"the input {name}", SMALLER)
                self._buffers[name] = self._owned.buffer(size)
            staged = self._buffers[name].staging[: array.nbytes]
            np.copyto(staged.view(array.dtype).reshape(array.shape), array)
            self._cuda.upload(self._buffers[name].address, staged, self._owned.stream)
        addresses = {name: self._buffers[name].address for name in feeds}
        return shaped, {**addresses, **kept}, here.block if here else NO_TASK

    def _shaped(self, shapes: Shapes) -> Shaped:
        """The context of these shapes of all inputs: there already, new, or the one that was used longest ago."""
        key = tuple(shapes[name] for name in self.inputs)
        contexts = self._owned.contexts
        if key in contexts:
            contexts.move_to_end(key)
            return contexts[key]
        if len(contexts) >= self._most_contexts:
            oldest, other = contexts.popitem(last=False)
            self._owned.drop(graph for graph in (*self._owned.graphs, *self._owned.warm) if graph[0] == oldest)
            context = other.context
        else:
            context = self._told(create_context(self._trt, self._owned.engine), "has no room to run", SMALLER)
            give_memory(context, self._memory, self._memory_size)
        for name, shape in shapes.items():
            self._told(context.set_input_shape(name, shape) or None, f"refuses the shape {shape} of {name}", REBUILD)
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        if unknown := [name for name, shape in outputs.items() if min(shape, default=1) < 0]:
            raise ModelError(
                f"{self._path} has outputs whose shapes depend on values: {', '.join(unknown)}", fix="export again"
            )
        contexts[key] = Shaped(key, context, outputs)
        return contexts[key]

    def _start(self, shaped: Shaped, addresses: Mapping[str, int], block: int) -> None:
        """Give one run to the stream: the task's graph, or launch by launch where it has none yet."""
        key: GraphKey = (shaped.key, block)
        graphs = self._owned.graphs
        if key in graphs:
            graphs.move_to_end(key)
            self._cuda.launch(graphs[key], self._owned.stream)
            return
        context = shaped.context
        for name, address in {**addresses, **{name: buffer.address for name, buffer in self._outputs.items()}}.items():
            self._told(context.set_tensor_address(name, address) or None, f"refuses an address of {name}", REBUILD)
        ran = key in self._owned.warm
        if self.graphs and ran and self._capture(context, key):
            return
        self._enqueue(context)
        if not ran:  # else it could not be captured: not again at once
            self._owned.warm.add(key)

    def _capture(self, context: Any, key: GraphKey) -> bool:
        """Make the graph of a key and launch it; False where there is no memory for it, or no graph can be made."""
        if not capturable(context, self._owned.stream):
            return self._without_graphs("TensorRT says that it cannot be captured")
        graphs = self._owned.graphs
        while True:
            try:
                if len(graphs) >= GRAPHS:
                    self._owned.drop_oldest()
                graphs[key] = self._cuda.capture(self._owned.stream, lambda: self._enqueue(context))
                self._cuda.launch(graphs[key], self._owned.stream)
                return True
            except OutOfMemory:
                self._owned.drop([key])
                if not graphs:
                    return False
                self._owned.drop_oldest()
            except (CudaError, ModelError) as error:
                self._owned.drop([key])
                return self._without_graphs(f"{error.wrong} ({error.found})")

    def _without_graphs(self, why: str) -> bool:
        self.graphs = False
        print(f"{self._path} runs without CUDA graphs: {why}", file=sys.stderr)
        return False

    def _enqueue(self, context: Any) -> None:
        self._told(context.execute_async_v3(self._owned.stream) or None, "cannot run", REBUILD)

    def _told(self, result: Any, what: str, fix: str) -> Any:
        """What TensorRT returned; raises ModelError with what it logged when that is None."""
        reasons = "; ".join(self._log.errors)
        self._log.lines.clear()
        self._log.errors.clear()
        if result is None:
            package = f"{self._trt.__name__} {self._trt.__version__}"
            raise ModelError(f"{package} {what}: {self._path}", found=reasons or "no reason given", fix=fix)
        return result


class _OnDevice(Held):
    """Values of inputs in the device's memory, which is given back when nobody holds them any more."""

    def __init__(
        self, arrays: Mapping[str, np.ndarray], owner: Owned, block: int, addresses: Mapping[str, int]
    ) -> None:
        super().__init__(arrays)
        self.owner, self.block, self.addresses = owner, block, addresses
        self.shapes = {name: array.shape for name, array in arrays.items()}
        weakref.finalize(self, owner.left.append, block).atexit = False  # the session has ended by then


def _layout(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, int], int]:
    """Offset of each array in one block of memory, aligned as TensorRT wants addresses, and the size of the block."""
    offsets, size = {}, 0
    for name, array in arrays.items():
        offsets[name] = size
        size += -(-max(array.nbytes, 1) // ALIGNMENT) * ALIGNMENT
    return offsets, max(size, ALIGNMENT)
