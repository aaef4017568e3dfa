"""The GPU of this machine, asked through cuda-python."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from apt_edge.errors import AptEdgeError, MissingDependency


class Device(NamedTuple):
    """A GPU: its compute capability like `8.7`, and its free memory in bytes."""

    capability: str
    free_bytes: int


def cuda_device() -> Device:
    """The current GPU.

    Raises:
        MissingDependency: cuda-python is not installed.
        AptEdgeError: there is no GPU, or its driver is too old.
    """
    try:
        runtime: Any = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependency(
            "cuda-python is not installed", found=str(error), fix='pip install "apt-edge[cuda]"'
        ) from None
    attributes = runtime.cudaDeviceAttr
    device = _checked(runtime, runtime.cudaGetDevice())
    major = _checked(runtime, runtime.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, device))
    minor = _checked(runtime, runtime.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, device))
    return Device(f"{major}.{minor}", _checked(runtime, runtime.cudaMemGetInfo()[:2]))


def _checked(runtime: Any, answer: tuple[Any, Any]) -> Any:
    error, value = answer
    if error != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(error)
        raise AptEdgeError(
            "there is no usable GPU", found=text.decode(), fix="build on the device, with its driver installed"
        )
    return value
