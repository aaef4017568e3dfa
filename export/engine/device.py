"""The GPU of this machine, for a builder that compiles on it."""

from __future__ import annotations

from typing import NamedTuple

from apt_edge.runtime.cuda.backend import free_bytes
from apt_edge.runtime.cuda.find import open_cuda


class Device(NamedTuple):
    """A GPU: its compute capability like `8.7`, and its free memory in bytes."""

    capability: str
    free_bytes: int


def cuda_device() -> Device:
    """The first GPU.

    Raises:
        MissingDependency: neither cuda-python nor pycuda is installed.
        AptEdgeError: there is no GPU, or its driver is too old.
    """
    cuda = open_cuda()
    with cuda.current():
        return Device(cuda.capability, free_bytes(cuda))
