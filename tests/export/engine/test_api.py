"""No version of TensorRT is asked for what it does not have: our code against the bindings' own attributes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.export.engine.api import dumps, public, uses

ROOT = Path(__file__).parents[3]
VERSIONS = {"8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"}


def mentions_bindings(path: Path) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "trt" for node in ast.walk(ast.parse(path.read_text())))


SOURCES = [
    *sorted((ROOT / "export" / "engine").glob("*.py")),
    *(path for path in sorted((ROOT / "apt_edge" / "runtime").glob("*.py")) if mentions_bindings(path)),
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_code_uses_what_every_version_has(path):
    assert set(dumps()) == VERSIONS
    assert uses(path.read_text(encoding="utf-8"), dumps()).findings == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_code_uses_what_tensorrt_rtx_has(path):
    module = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    assert uses(path.read_text(encoding="utf-8"), {"rtx": public(module)}).findings == []


def test_the_walk_sees_our_code():
    seen = {path.name: uses(path.read_text(encoding="utf-8"), dumps()).checked for path in SOURCES}
    assert seen["compiler.py"] >= 25
    assert seen["layers.py"] >= 7
    assert seen["timing_cache.py"] >= 4
    assert seen["progress.py"] >= 1
    assert seen["tensorrt.py"] >= 6
    assert seen["tensorrt_contexts.py"] >= 12
    assert seen["tensorrt_ports.py"] >= 12
    assert seen["tensorrt_log.py"] >= 2


FOUND = {
    "config.set_flag(trt.BuilderFlag.FP16)": ["1: BuilderFlag.FP16 is not in 11.4.0.106"],
    "context.execute_async_v2(bindings, stream)": [
        "1: IExecutionContext.execute_async_v2 is not in 10.13.3.9, 10.16.1.11, 10.3.0, 11.4.0.106"
    ],
    "self._engine.device_memory_size": ["1: ICudaEngine.device_memory_size is not in 11.4.0.106"],
    "b = trt.Builder(log)\nb.platform_has_fast_fp16": ["2: Builder.platform_has_fast_fp16 is not in 11.4.0.106"],
    "trt.Runtime(log).deserialize_cuda_engine(plan).num_bindings": [
        "1: ICudaEngine.num_bindings is not in 10.13.3.9, 10.16.1.11, 10.3.0, 11.4.0.106"
    ],
    "class M(trt.IProgressMonitor): pass": ["1: the module.IProgressMonitor is not in 8.6.1"],
    "getattr(builder, 'max_workspace_size')": [
        "1: Builder.max_workspace_size is not in 10.13.3.9, 10.16.1.11, 10.3.0, 11.4.0.106, 8.6.1"
    ],
    "if hasattr(config, 'progress_monitor'):\n    config.set_flag(trt.BuilderFlag.FP16)": [
        "2: BuilderFlag.FP16 is not in 11.4.0.106"
    ],
    "if hasattr(engine, 'device_memory_size_v2'):\n    pass\nengine.device_memory_size_v2": [
        "3: ICudaEngine.device_memory_size_v2 is not in 8.6.1"
    ],
    "def f():\n    if not hasattr(trt, 'IProgressMonitor'):\n        return\ndef g():\n    trt.IProgressMonitor": [
        "5: the module.IProgressMonitor is not in 8.6.1"
    ],
}
GUARDED = [
    "if hasattr(trt.BuilderFlag, 'FP16'):\n    config.set_flag(trt.BuilderFlag.FP16)",
    "engine.device_memory_size_v2 if hasattr(engine, 'device_memory_size_v2') else engine.device_memory_size",
    "getattr(engine, 'device_memory_size', 0)",
    "def f(trt):\n    if not hasattr(trt, 'IProgressMonitor'):\n        return\n    trt.IProgressMonitor",
    "model.engine.write_bytes(plan)",
]


@pytest.mark.parametrize("code", FOUND)
def test_what_a_version_lacks_is_found(code):
    assert uses(code, dumps()).findings == FOUND[code]


@pytest.mark.parametrize("code", GUARDED)
def test_guarded_code_passes(code):
    assert uses(code, dumps()).findings == []
