"""Which package calls CUDA: cuda-python, or pycuda where that is the one that is installed."""

from __future__ import annotations

from collections.abc import Callable

from apt_edge.errors import ConfigError, MissingDependency
from apt_edge.runtime.cuda.backend import CudaBackend
from apt_edge.runtime.cuda.cuda_python import CudaPython
from apt_edge.runtime.cuda.pycuda import PyCuda

BACKENDS: dict[str, Callable[[], CudaBackend]] = {"cuda-python": CudaPython, "pycuda": PyCuda}


def open_cuda(name: str | None = None) -> CudaBackend:
    """The first GPU of this machine.

    Args:
        name: of `BACKENDS`; the first that is installed when None.

    Raises:
        MissingDependency: no such package is installed.
        AptEdgeError: there is no GPU, no driver, or the package is not made for it.
        ConfigError: there is no backend of that name.
    """
    if name is not None:
        if name not in BACKENDS:
            raise ConfigError(f"there is no CUDA backend {name}", fix=f"choose one of {', '.join(BACKENDS)}")
        return BACKENDS[name]()
    for make in BACKENDS.values():
        try:
            return make()
        except MissingDependency:
            continue
    raise MissingDependency("neither cuda-python nor pycuda is installed", fix='pip install "apt-edge[cuda]"')
