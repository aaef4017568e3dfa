"""Engines on a GPU, in TensorRT and TensorRT-RTX, through both CUDA backends. A skip elsewhere is no pass."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from apt_edge.errors import AptEdgeError, ModelError
from apt_edge.runtime.cuda.backend import free_bytes
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.tensorrt import TensorRtSession
from apt_edge.runtime.tensorrt_log import MODULES
from tests.apt_edge.gpu import NAMES, cuda_or_skip

pytestmark = pytest.mark.gpu
TENSORS = {"clip": [None, 4], "key": [1, None, 4], "weight": [4, 5]}
PROFILES = {"clip": ([1, 4], [1, 4], [4, 4]), "key": ([1, 1, 4], [1, 8, 4], [1, 16, 4])}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """logits = (clip + mean of the keys) @ weight, float32, with free numbers of clips and of keys."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [length or name for length in shape])
        for name, shape in TENSORS.items()
    ]
    nodes = [
        helper.make_node("ReduceMean", ["key"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["clip", "mean"], ["sum"]),
        helper.make_node("MatMul", ["sum", "weight"], ["logits"]),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["clip", 5])
    made = helper.make_graph(nodes, "graph", ports, [output])
    path = tmp_path_factory.mktemp("gpu") / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(params=[(runtime, backend) for runtime in MODULES for backend in NAMES], ids="-".join)
def session(request: pytest.FixtureRequest, graph: Path, tmp_path: Path) -> TensorRtSession:
    """The graph as an engine of each runtime, through each backend."""
    runtime, backend = request.param
    cuda = cuda_or_skip(backend)
    trt = pytest.importorskip(MODULES[runtime], reason=f"{runtime} is not installed")
    from export.engine.compiler import build

    try:
        plan = build(runtime, graph, profiles=PROFILES).plan
        (tmp_path / "model.engine").write_bytes(plan)
        return TensorRtSession(tmp_path / "model.engine", cuda, trt)
    except AptEdgeError as error:
        if runtime == "tensorrt-rtx":  # it has no kernels for datacenter GPUs and Jetsons
            pytest.skip(f"{runtime} does not run on this GPU: {error.found}")
        raise


def feeds(seed: int, clips: int = 1, keys: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"clip": (clips, 4), "key": (1, keys, 4), "weight": (4, 5)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_an_engine_computes_what_onnxruntime_does(session, graph):
    reference = OrtSession(graph)
    for clips, keys in ((1, 8), (1, 8), (1, 8), (4, 16), (4, 16), (2, 1), (1, 8), (1, 8)):
        wanted = feeds(clips, clips, keys)
        found = session.run(wanted)["logits"]
        np.testing.assert_allclose(found, reference.run(wanted)["logits"], rtol=1e-2, atol=1e-2)  # TF32
    with pytest.raises(ModelError, match="from 1x4 to 4x4"):
        session.run(feeds(0, clips=5))


def test_tasks_that_are_held_and_come_back_to_the_last_bit(session):
    clip = {"clip": feeds(9)["clip"]}
    values = [{name: array for name, array in feeds(seed).items() if name != "clip"} for seed in range(3)]
    held = [session.hold(one) for one in values]
    first = [session.run(clip, one)["logits"] for one in held]  # launched one by one
    for _ in range(3):  # captured, then replayed
        for one, kept, wanted in zip(held, values, first, strict=True):
            assert np.array_equal(session.run(clip, one)["logits"], wanted)
            assert np.array_equal(session.run({**clip, **kept})["logits"], wanted)
    assert session.graphs, "the engine could not be captured"
    assert len({logits.tobytes() for logits in first}) == 3
    assert session.compute_ms(clip, held[0]) > 0
    del held[1]
    assert np.array_equal(session.run(clip, session.hold(values[1]))["logits"], first[1])


def test_shapes_that_alternate_have_graphs_and_bits_of_their_own(session):
    wanted = [feeds(keys, clips, keys) for clips, keys in ((1, 8), (4, 16), (1, 3))]
    first = [session.run(one)["logits"] for one in wanted]
    for _ in range(3):
        for one, logits in zip(wanted, first, strict=True):
            assert np.array_equal(session.run(one)["logits"], logits)
    shared = not session._trt.__version__.startswith("8.")  # there one context has the profile
    assert len(session._owned.graphs) == (3 if shared else 0)


def test_memory_comes_back(session, graph, tmp_path):
    with session._cuda.current():
        free = free_bytes(session._cuda)
    tasks = [session.hold({"key": np.ones((1, 16, 4), np.float32)}) for _ in range(100)]
    session.run({name: array for name, array in feeds(0).items() if name != "key"}, tasks[0])
    tasks.clear()
    session.close()
    with session._cuda.current():
        assert free_bytes(session._cuda) >= free - (64 << 20)


@pytest.mark.parametrize("runtime", MODULES)
def test_a_file_that_is_no_engine_of_this_runtime(tmp_path, runtime):
    cuda = cuda_or_skip()
    trt = importlib.import_module(MODULES[runtime]) if importlib.util.find_spec(MODULES[runtime]) else None
    if trt is None:
        pytest.skip(f"{runtime} is not installed")
    (tmp_path / "model.engine").write_bytes(b"no engine" * 1000)
    with pytest.raises(ModelError, match=r"cannot load[\s\S]*build it again here"):
        TensorRtSession(tmp_path / "model.engine", cuda, trt)
