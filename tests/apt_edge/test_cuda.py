"""The CUDA backends: the real packages on a machine without a GPU, and everything they do on one with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from apt_edge.errors import AptEdgeError, ConfigError, MissingDependency
from apt_edge.runtime.cuda.backend import ALIGNMENT, CudaError, free_bytes
from apt_edge.runtime.cuda.cuda_python import CudaPython
from apt_edge.runtime.cuda.find import open_cuda
from tests.apt_edge.gpu import NAMES, cuda_or_skip
from tests.apt_edge.host_cuda import HostCuda

MODULES = {"cuda-python": "cuda", "pycuda": "pycuda"}
MEMINFO = """\
MemTotal:        7802152 kB
MemFree:          214512 kB
MemAvailable:    4893120 kB
Buffers:           61424 kB
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_without_a_gpu_is_told_in_one_sentence(name):
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"{name} is not installed; pycuda is compiled with nvcc")
    code = f"from apt_edge.runtime.cuda.find import open_cuda\nopen_cuda({name!r})"
    program = f"from apt_edge.errors import run_tool\ndef main():\n    {code.replace(chr(10), chr(10) + '    ')}\n"
    command = [sys.executable, "-W", "ignore", "-c", f"{program}run_tool(main, 'tool')"]
    bare = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=bare)
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[0]) == (1, f"tool: {name} finds no NVIDIA GPU that it can use"), done.stderr
    assert lines[1].startswith("  found: ")
    assert lines[2].startswith("  fix:   run engines where nvidia-smi")


def test_without_either_package_the_fix_is_named(monkeypatch):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"neither cuda-python nor pycuda[\s\S]*apt-edge\[cuda\]"):
        open_cuda()
    with pytest.raises(MissingDependency, match=r"pycuda is not installed[\s\S]*apt-edge\[pycuda\]"):
        open_cuda("pycuda")
    with pytest.raises(ConfigError, match="choose one of cuda-python, pycuda"):
        open_cuda("cupy")


def test_a_driver_that_is_older_than_cuda_python_asks_for_the_older_package(monkeypatch):
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    newer = runtime.cudaError_t.cudaErrorInsufficientDriver
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (newer, None))
    monkeypatch.setattr(runtime, "cudaDriverGetVersion", lambda: (runtime.cudaError_t.cudaSuccess, 11080))
    with pytest.raises(
        AptEdgeError, match=r'a driver for CUDA 11, a cuda-python for CUDA 1\d\n.*"cuda-python==11\.\*"'
    ):
        open_cuda("cuda-python")


def test_every_call_fits_the_real_package():
    """Without a driver each call returns an error, once its arguments were taken."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU: these addresses would be used")
    cuda = CudaPython.__new__(CudaPython)
    cuda._rt, cuda._device = runtime, 0
    array = np.zeros(4, np.uint8)
    calls = {
        "memory": (),
        "malloc": (8,),
        "free": (4096,),
        "pinned": (8,),
        "free_pinned": (array,),
        "upload": (4096, array, 1),
        "download": (array, 4096, 1),
        "copy": (4096, 8192, 4, 1),
        "stream": (),
        "synchronize": (1,),
        "destroy_stream": (1,),
        "event": (),
        "record": (1, 1),
        "elapsed_ms": (1, 2),
        "destroy_event": (1,),
        "capture": (1, lambda: None),
        "launch": (1, 1),
        "destroy_graph": (1,),
    }
    assert set(calls) == {name for name in vars(CudaPython) if not name.startswith("_")} - {"name", "current"}
    for name, arguments in calls.items():
        with pytest.raises(CudaError, match=r"CUDA failed in cuda\w+\n  found: .*driver"):
            getattr(cuda, name)(*arguments)
    with pytest.raises(CudaError), cuda.current():
        pass


@pytest.mark.parametrize(("integrated", "expected"), [(False, 1 << 20), (True, 4893120 << 10)])
def test_memory_that_the_system_only_caches_counts_where_it_is_shared(tmp_path, integrated, expected):
    (tmp_path / "meminfo").write_text(MEMINFO)
    cuda = HostCuda(free_memory=1 << 20, integrated=integrated)
    with cuda.current():
        assert free_bytes(cuda, tmp_path / "meminfo") == expected
        assert free_bytes(cuda, tmp_path / "absent") == 1 << 20


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_copies_graphs_and_events_on_a_gpu(name):
    cuda = cuda_or_skip(name)
    values = np.arange(1 << 16, dtype=np.uint8)
    with cuda.current():
        free, total = cuda.memory()
        assert 0 < free <= total
        stream, begin, end = cuda.stream(), cuda.event(), cuda.event()
        source, target, spare = (cuda.malloc(values.size) for _ in range(3))
        staging, back = cuda.pinned(values.size), cuda.pinned(values.size)
        assert {address % ALIGNMENT for address in (source, target, spare)} == {0}
        staging[:] = values
        cuda.upload(source, staging, stream)
        cuda.copy(target, source, values.size, stream)
        cuda.record(begin, stream)
        cuda.download(back, target, stream)
        cuda.record(end, stream)
        assert cuda.elapsed_ms(begin, end) > 0
        assert np.array_equal(back, values)
        graph = cuda.capture(stream, lambda: cuda.copy(target, spare, values.size, stream))
        cuda.upload(spare, values[::-1].copy(), stream)  # from pageable memory; the capture has run nothing
        cuda.download(back, target, stream)
        cuda.synchronize(stream)
        assert np.array_equal(back, values)
        cuda.launch(graph, stream)
        cuda.download(back, target, stream)
        cuda.synchronize(stream)
        assert np.array_equal(back, values[::-1])
        cuda.destroy_graph(graph)
        for address in (source, target, spare):
            cuda.free(address)
        for array in (staging, back):
            cuda.free_pinned(array)
        for event in (begin, end):
            cuda.destroy_event(event)
        cuda.destroy_stream(stream)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_what_fails_on_a_gpu_leaves_it_usable(name):
    cuda = cuda_or_skip(name)
    with cuda.current():
        with pytest.raises(CudaError, match="unload tasks"):
            cuda.malloc(1 << 50)
        stream = cuda.stream()

        def broken() -> None:
            raise KeyError("in the middle of a capture")

        with pytest.raises(KeyError):
            cuda.capture(stream, broken)
        address = cuda.malloc(16)
        cuda.upload(address, np.zeros(16, np.uint8), stream)
        cuda.synchronize(stream)
        cuda.free(address)
        cuda.destroy_stream(stream)
