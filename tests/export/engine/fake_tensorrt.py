"""A stand-in for TensorRT and cuda-python, which need a GPU: the calls of a build, with a version's own names."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.export.engine.api import dumps
from tests.export.engine.graphs import NAMES

TIMINGS = b"timings:"


class Flag(enum.IntEnum):
    """Members of the enumerations that a build names."""

    STRONGLY_TYPED = 1
    DETAILED = 2
    WORKSPACE = 3
    JSON = 4


class FakeTensorRT:
    """The module `tensorrt`, for `sys.modules`.

    Args:
        version: of the bindings.
        refuses: how a damaged timing cache is told: `none`, `logged` or `false`.

    Attributes:
        builds: the builder configurations of the builds that were begun.
    """

    def __init__(self, version: str, refuses: str = "none") -> None:
        self.__name__, self.__version__ = "tensorrt", version
        self.api = dumps()[version]
        self.refuses = refuses
        self.builds: list[Config] = []
        self.BuilderFlag = SimpleNamespace(**dict.fromkeys(self.api["BuilderFlag"]))
        self.ProfilingVerbosity = self.MemoryPoolType = self.LayerInformationFormat = Flag
        self.NetworkDefinitionCreationFlag = (
            Flag if "STRONGLY_TYPED" in self.api["NetworkDefinitionCreationFlag"] else SimpleNamespace()
        )

    class ILogger:
        class Severity(enum.IntEnum):
            ERROR = 1

    def Builder(self, log: Any) -> Any:
        return self.checked("Builder", Builder(self, log))

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return self.checked("OnnxParser", SimpleNamespace(parse_from_file=lambda path: Path(path).is_file()))

    def Runtime(self, log: Any) -> Any:
        return self.checked("Runtime", SimpleNamespace(deserialize_cuda_engine=self._engine))

    def _engine(self, plan: bytes) -> Any:
        layers = [
            {
                "Name": f"_gemm_mha_v2_myl0_{block}",
                "Constants": [{"Name": f"{name}_constantHalf_myl0"} for name in pair],
            }
            for block, pair in enumerate((NAMES[:2], NAMES[2:]))
        ]
        inspector = SimpleNamespace(get_engine_information=lambda _: json.dumps({"Layers": layers}))
        sizes = {"device_memory_size": 7, "device_memory_size_v2": 7}
        known = {name: size for name, size in sizes.items() if name in self.api["ICudaEngine"]}
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector, **known)
        return self.checked("ICudaEngine", engine)

    def checked(self, kind: str, stand_in: Any) -> Any:
        """The stand-in, if the real class has every public name that it has."""
        names = {name for name in [*vars(stand_in), *vars(type(stand_in))] if not name.startswith("_")}
        assert names <= set(self.api[kind]), names - set(self.api[kind])
        return stand_in


class Builder:
    """`trt.Builder`."""

    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        self._trt, self._log = trt, log

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << Flag.STRONGLY_TYPED
        return self._trt.checked("INetworkDefinition", SimpleNamespace(num_inputs=0))

    def create_builder_config(self) -> Any:
        return self._trt.checked("IBuilderConfig", Config(self._trt, self._log))

    def build_serialized_network(self, network: Any, config: Config) -> bytes:
        self._trt.builds.append(config)
        return b"plan"


class Config:
    """`trt.IBuilderConfig`."""

    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        self._trt, self._log = trt, log
        self._pools: dict[Any, int] = {}
        self._timings = b""

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._pools[pool] = size

    def create_timing_cache(self, data: bytes) -> Any:
        damaged = bool(data) and not data.startswith(TIMINGS)
        if damaged and self._trt.refuses == "none":
            return None
        if damaged and self._trt.refuses == "logged":
            self._log.log(1, "Magic tag does not match")
        return SimpleNamespace(serialize=lambda: data, damaged=damaged)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._timings = cache.serialize()
        return not (cache.damaged and self._trt.refuses == "false")

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: (self._timings or TIMINGS) + b"more")


def fake_cuda(capability: tuple[int, int] = (8, 7), free: int = 8 << 30, error: int = 0) -> Any:
    """The module `cuda.bindings.runtime` of a machine with such a GPU, or whose every call fails with `error`."""
    values = {"major": capability[0], "minor": capability[1], "integrated": 0}
    return SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2),
        cudaDeviceAttr=SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor="major",
            cudaDevAttrComputeCapabilityMinor="minor",
            cudaDevAttrIntegrated="integrated",
        ),
        cudaGetDeviceCount=lambda: (error, 1),
        cudaGetDevice=lambda: (error, 0),
        cudaSetDevice=lambda device: (error,),
        cudaDeviceGetAttribute=lambda name, device: (error, values[name]),
        cudaMemGetInfo=lambda: (error, free, 2 * free),
        cudaGetErrorString=lambda error: (0, b"no CUDA-capable device is detected"),
        cudaGetLastError=lambda: (error,),
        cudaDriverGetVersion=lambda: (0, 13000),
        cudaRuntimeGetVersion=lambda: (0, 13000),
    )
