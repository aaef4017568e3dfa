"""A stand-in for the runtime half of TensorRT, with the names of one version: engines that compute on `HostCuda`.

An engine is JSON: `{"batch": [least, most], "prompts": [least, most]}`. It takes `clip` uint8 `[B, 2]`, `key` float32
`[1, n, 3]` and `weight` float16 `[1, 5]`, and gives `logits` float32 `[B, 5]` and `top` int32 `[B]`.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from apt_edge.runtime.cuda.backend import ALIGNMENT
from tests.apt_edge.host_cuda import HostCuda, at

DEVICE_MEMORY = 1000
PLAN = {"batch": [1, 1], "prompts": [4, 4]}


class Name(enum.IntEnum):
    """Members of the enumerations that a session names, and one that it does not take."""

    INPUT = 1
    OUTPUT = 2
    DEVICE = 3
    HOST = 4
    LINEAR = 5
    CHW32 = 6
    UINT8 = 7
    HALF = 8
    FLOAT = 9
    INT32 = 10
    BF16 = 11
    USER_MANAGED = 12
    LAZY = 13
    EAGER = 14


def expected(clip: np.ndarray, key: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    """What an engine computes."""
    pixels = clip.astype(np.float32).sum(axis=1, keepdims=True)
    logits = pixels * weight.astype(np.float32) + key.sum(dtype=np.float32)
    return {"logits": logits, "top": logits.argmax(axis=1).astype(np.int32)}


class FakeTensorRT:
    """The module.

    Args:
        cuda: where its engines compute.
        version: of the bindings.
        api: class -> public attributes of that version; stand-ins may have no others.

    Attributes:
        changes: tensor -> attribute -> what an engine tells instead (`dtype`, `format`, `location`).
        refusing: calls that return None or False and log why.
        capturable: what contexts say where they can be asked.
    """

    TensorIOMode = TensorLocation = TensorFormat = Name
    ExecutionContextAllocationStrategy = DynamicShapesKernelSpecializationStrategy = Name

    class ILogger:
        class Severity(enum.IntEnum):
            ERROR = 1

    def __init__(self, cuda: HostCuda, version: str, api: Mapping[str, Any]) -> None:
        self.__name__, self.__version__, self.cuda, self.api = "tensorrt", version, cuda, api
        self.changes: dict[str, dict[str, Any]] = {}
        self.refusing: set[str] = set()
        self.capturable = True
        self.log: Any = None

    def Runtime(self, log: Any) -> Any:
        self.log = log
        return self.watched(self.checked("Runtime", Runtime(self)), "runtime gone")

    def refused(self, call: str) -> bool:
        """Whether a call is refused; it logs the reason."""
        if call in self.refusing:
            self.log.log(1, f"the reason why {call} is refused")
        return call in self.refusing

    def checked(self, kind: str, stand_in: Any) -> Any:
        """The stand-in, if the real class has every public name that it has."""
        names = {name for name in [*vars(stand_in), *vars(type(stand_in))] if not name.startswith("_")}
        assert names <= set(self.api[kind]), names - set(self.api[kind])
        return stand_in

    def watched(self, stand_in: Any, line: str) -> Any:
        """The stand-in; the log gets a line when it goes."""
        weakref.finalize(stand_in, self.cuda.log.append, line)
        return stand_in


class StandIn:
    """What a class of some versions has and of others has not: methods with a leading underscore."""

    _kind, _optional = "", ()

    def __getattr__(self, name: str) -> Any:
        if name in self._optional and name in self._trt.api.get(self._kind, ()):
            return getattr(self, f"_{name}")
        raise AttributeError(name)


class Runtime:
    """`trt.Runtime`."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        self._trt.cuda.log.append("deserialize")
        if self._trt.refused("deserialize"):
            return None
        engine = Engine(self._trt, json.loads(bytes(serialized_engine)))
        return self._trt.watched(self._trt.checked("ICudaEngine", engine), "engine gone")


class RuntimeConfig:
    """`trt.IRuntimeConfig`."""

    def __init__(self, api: Mapping[str, Any]) -> None:
        if "dynamic_shapes_kernel_specialization_strategy" in api["IRuntimeConfig"]:
            self.dynamic_shapes_kernel_specialization_strategy = Name.LAZY

    def set_execution_context_allocation_strategy(self, strategy: Name) -> None:
        self._strategy = strategy


class Engine(StandIn):
    """`trt.ICudaEngine`."""

    _kind, _optional = "ICudaEngine", ("create_execution_context_without_device_memory", "create_runtime_config")

    def __init__(self, trt: FakeTensorRT, plan: dict[str, list[int]]) -> None:
        self._trt, self._plan = trt, plan
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        batch, prompts = (-1 if least < most else most for least, most in (plan["batch"], plan["prompts"]))
        self._ports = {
            "clip": (Name.UINT8, (batch, 2)),
            "key": (Name.FLOAT, (1, prompts, 3)),
            "weight": (Name.HALF, (1, 5)),
            "logits": (Name.FLOAT, (batch, 5)),
            "top": (Name.INT32, (batch,)),
        }
        memory = "device_memory_size_v2" if "device_memory_size_v2" in trt.api["ICudaEngine"] else "device_memory_size"
        vars(self)[memory] = DEVICE_MEMORY
        self.num_io_tensors = len(self._ports)

    def get_tensor_name(self, index: int) -> str:
        return [*self._ports][index]

    def get_tensor_mode(self, name: str) -> Name:
        return Name.OUTPUT if name in ("logits", "top") else Name.INPUT

    def get_tensor_dtype(self, name: str) -> Name:
        return self._told(name, "dtype", self._ports[name][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._ports[name][1]

    def get_tensor_location(self, name: str) -> Name:
        return self._told(name, "location", Name.DEVICE)

    def get_tensor_format(self, name: str) -> Name:
        return self._told(name, "format", Name.LINEAR)

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        assert -1 in self._ports[name][1], "a static input has no profile"
        free = self._plan["batch" if name == "clip" else "prompts"]
        least, most = (tuple(length if n < 0 else n for n in self._ports[name][1]) for length in free)
        return [least, most, most]

    def _create_runtime_config(self) -> Any:
        return self._trt.checked("IRuntimeConfig", RuntimeConfig(self._trt.api))

    def create_execution_context(self, runtime_config: RuntimeConfig) -> Any:
        assert runtime_config._strategy == Name.USER_MANAGED
        kernels = getattr(runtime_config, "dynamic_shapes_kernel_specialization_strategy", Name.EAGER)
        assert kernels == Name.EAGER, "graphs would keep fallback kernels"
        return self._create_execution_context_without_device_memory()

    def _create_execution_context_without_device_memory(self) -> Any:
        self._trt.cuda.log.append("create context")
        if self._trt.refused("context"):
            return None
        shared = not self._trt.__version__.startswith("8.") or self.get_tensor_shape("clip")[0] > 0
        assert shared or not self._contexts, "TensorRT 8 gives a profile to one context alone"
        context = self._trt.checked("IExecutionContext", Context(self._trt, dict(self._ports)))
        self._contexts.add(context)
        return self._trt.watched(context, "context gone")

    def _told(self, name: str, what: str, usual: Name) -> Name:
        return self._trt.changes.get(name, {}).get(what, usual)


class Context(StandIn):
    """`trt.IExecutionContext`."""

    _kind, _optional = "IExecutionContext", ("set_device_memory", "is_stream_capturable")
    device_memory = property(fset=lambda self, memory: self._set_device_memory(memory, DEVICE_MEMORY))

    def __init__(self, trt: FakeTensorRT, ports: dict[str, Any]) -> None:
        self._trt, self._cuda, self._ports = trt, trt.cuda, ports
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._changes, self._settled = 0, False
        self._memory = 0

    def _set_device_memory(self, memory: int, size: int) -> None:
        assert (memory % ALIGNMENT, size) == (0, DEVICE_MEMORY)
        self._memory = memory

    def _is_stream_capturable(self, stream: int) -> bool:
        assert set(self._addresses) == set(self._ports)
        return self._trt.capturable

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._cuda.log.append(f"shape {name}")
        assert all(want in (-1, got) for want, got in zip(self._ports[name][1], shape, strict=True))
        self._shapes[name] = shape
        self._changes, self._settled = self._changes + 1, False
        return not self._trt.refused("shape")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert set(self._shapes) == {"clip", "key", "weight"}, "output shapes follow from those of all inputs"
        return (self._shapes["clip"][0], *self._ports[name][1][1:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._cuda.log.append(f"address {name}")
        assert memory % ALIGNMENT == 0
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert set(self._addresses) == set(self._ports), "every tensor needs an address"
        assert self._cuda.alive[self._memory] == "malloc", "activations need memory"
        if self._trt.refused("capture" if self._cuda.capturing else "execute"):
            return False
        assert self._settled or not self._cuda.capturing, "the first run with new shapes cannot be captured"
        self._settled = True
        addresses, shapes, changes = dict(self._addresses), dict(self._shapes), self._changes

        def compute() -> None:
            assert changes == self._changes, "a graph of other shapes"
            at(self._memory, DEVICE_MEMORY)[:] = 99  # what another context left there is not kept
            found = expected(*(self._array(name, addresses, shapes[name]) for name in ("clip", "key", "weight")))
            for name, array in found.items():
                self._array(name, addresses, array.shape)[...] = array

        self._cuda.kernels(stream_handle, compute)
        return True

    def _array(self, name: str, addresses: dict[str, int], shape: tuple[int, ...]) -> np.ndarray:
        dtype = {Name.UINT8: np.uint8, Name.FLOAT: np.float32, Name.HALF: np.float16, Name.INT32: np.int32}
        kind = np.dtype(dtype[self._ports[name][0]])
        return at(addresses[name], kind.itemsize * int(np.prod(shape))).view(kind).reshape(shape)
