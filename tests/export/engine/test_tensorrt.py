"""What a build with TensorRT does beside the compiling: workspace, timing cache, key, refusals. A stand-in compiles."""

from __future__ import annotations

import sys

import pytest

from apt_edge.errors import AptEdgeError, ConfigError, MissingDependency
from export.engine.compiler import build
from export.to_engine import build_engine
from tests.export.engine.fake_tensorrt import TIMINGS, FakeTensorRT, fake_cuda
from tests.export.engine.graphs import make_model


@pytest.fixture
def place(monkeypatch):
    """Put the stand-ins in place; returns the one for TensorRT."""

    def put(version="11.4.0.106", refuses="none", cuda=None):
        trt = FakeTensorRT(version, refuses)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda or fake_cuda())
        return trt

    return put


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"])
def test_half_of_the_free_memory_and_the_timings_beside_the_model(tmp_path, place, version):
    trt = place(version)
    model = make_model(tmp_path / "m", "jetson-jp6-orin")
    report = build_engine(model)
    assert report["workspace_bytes"] == 4 << 30
    assert list(trt.builds[0]._pools.values()) == [4 << 30]
    assert (report["fused_attention"], report["prompt_constants"], report["activation_bytes"]) == (2, 4, 7)
    assert (report["key"]["compiler"], report["key"]["compute_capability"]) == (f"tensorrt {version}", ["8.7"])
    assert report["key"]["flags"] == ["STRONGLY_TYPED"]
    assert (model / "timing.cache").read_bytes() == TIMINGS + b"more"
    build_engine(model, force=True)
    assert trt.builds[1]._timings == TIMINGS + b"more"


def test_a_timing_cache_can_be_shared(tmp_path, place):
    place()
    for name in ("one", "two"):
        build_engine(make_model(tmp_path / name, "datacenter"), timing_cache=tmp_path / "shared.cache")
        assert not (tmp_path / name / "timing.cache").exists()
    assert (tmp_path / "shared.cache").read_bytes() == TIMINGS + b"more" + b"more"


@pytest.mark.parametrize("refuses", ["none", "logged", "false"])
def test_a_damaged_timing_cache_is_refused_before_the_build(tmp_path, place, refuses):
    trt = place(refuses=refuses)
    model = make_model(tmp_path / "m", "datacenter")
    (model / "timing.cache").write_bytes(b"half of")
    with pytest.raises(AptEdgeError, match=r"timing\.cache is damaged[\s\S]*delete .*timing\.cache") as error:
        build_engine(model)
    assert error.value.exit_code == 1
    assert trt.builds == []
    assert not (model / "model.engine").exists()
    (model / "timing.cache").unlink()
    build_engine(model)


def test_free_memory_does_not_ask_for_another_build_but_another_gpu_does(tmp_path, place):
    model = make_model(tmp_path / "m", "datacenter")
    place()
    build_engine(model)
    for cuda, builds in ((fake_cuda(free=1 << 30), 0), (fake_cuda((9, 0)), 1)):
        trt = place(cuda=cuda)
        build_engine(model)
        assert len(trt.builds) == builds


def test_tensorrt_8_is_sent_to_the_script(tmp_path, place):
    place("8.6.1")
    with pytest.raises(AptEdgeError, match=r"tensorrt 8\.6\.1 cannot build strongly typed graphs[\s\S]*build\.sh"):
        build_engine(make_model(tmp_path / "m", "jetson-jp6-orin"))


def test_a_machine_without_gpu_or_cuda_python_says_so(tmp_path, place, monkeypatch):
    model = make_model(tmp_path / "m", "datacenter")
    place(cuda=fake_cuda(error=100))
    with pytest.raises(AptEdgeError, match=r"finds no NVIDIA GPU that it can use\n  found: no CUDA-capable device"):
        build_engine(model)
    for name in ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"apt-edge\[cuda\]"):
        build_engine(model)


def test_tensorrt_compiles_for_its_own_gpu_alone(tmp_path, place):
    place()
    model = make_model(tmp_path / "m", "datacenter")
    with pytest.raises(ConfigError, match="compiles for the GPU that it runs on"):
        build("tensorrt", model / "model.onnx", capabilities=["SM86"])
