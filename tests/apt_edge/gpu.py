"""Whether this machine has a GPU for tests that need one, and the CUDA backends that tests run on."""

from __future__ import annotations

import pytest

from apt_edge.errors import AptEdgeError, MissingDependency
from apt_edge.runtime.cuda.backend import CudaBackend
from apt_edge.runtime.cuda.find import BACKENDS, open_cuda

NAMES = [*BACKENDS]


def cuda_or_skip(name: str | None = None) -> CudaBackend:
    """The GPU; skips the test with the reason where there is none, or no such package."""
    try:
        return open_cuda(name)
    except MissingDependency as error:
        pytest.skip(f"{error.wrong} (pycuda is compiled with nvcc, which this machine may lack)")
    except AptEdgeError as error:
        pytest.skip(f"needs a GPU: {error.wrong} ({error.found})")
