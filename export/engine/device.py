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
        cudart: Any = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependency(
            "cuda-python is not installed", found=str(error), fix='pip install "apt-edge[cuda]"'
        ) from None
    attributes = cudart.cudaDeviceAttr
    device = _checked(cudart, cudart.cudaGetDevice())
    major = _checked(cudart, cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, device))
    minor = _checked(cudart, cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, device))
    return Device(f"{major}.{minor}", _checked(cudart, cudart.cudaMemGetInfo()[:2]))


def _checked(cudart: Any, answer: tuple[Any, Any]) -> Any:
    error, value = answer
    if error != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(error)
        raise AptEdgeError(
            "there is no usable GPU", found=text.decode(), fix="build on the device, with its driver installed"
        )
    return value
