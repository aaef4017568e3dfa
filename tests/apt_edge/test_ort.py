"""ONNX Runtime sessions on a real graph: what was asked runs, or fails and says how to go on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from apt_edge.errors import AptEdgeError, ModelError
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.session import Held, Session


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x + x on float32 [batch, 3], and z = not m on bool [2]."""

    def port(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Not", ["m"], ["z"])],
        "graph",
        [port("x", TensorProto.FLOAT, ["batch", 3]), port("m", TensorProto.BOOL, [2])],
        [port("y", TensorProto.FLOAT, ["batch", 3]), port("z", TensorProto.BOOL, [2])],
    )
    path = tmp_path_factory.mktemp("ort") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_session_names_its_ports_and_runs(model: Path) -> None:
    session: Session = OrtSession(model, threads=1)
    assert session.inputs == {"x": ((None, 3), np.float32), "m": ((2,), np.bool_)}
    assert list(session.outputs) == ["y", "z"]
    got = session.run({"x": np.ones((4, 3), np.float32), "m": np.array([True, False])})
    assert got["y"].tolist() == [[2.0] * 3] * 4
    assert got["z"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (np.ones((4, 3)), "float32 of shape \\?x3"),
        (np.ones((4, 2), np.float32), "float32 of shape 4x2"),
        (np.ones(3, np.float32), "float32 of shape 3"),
        (None, "inputs are m, x"),
    ],
)
def test_feeds_are_never_converted(model: Path, x: np.ndarray | None, complaint: str) -> None:
    feeds = {"m": np.zeros(2, bool)} | ({} if x is None else {"x": x})
    with pytest.raises(ModelError, match=complaint):
        OrtSession(model).run(feeds)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"m": np.zeros(2, bool), "other": np.zeros(3)}, "has no input other"),
        ({"m": np.zeros(3, bool)}, "input m must be bool of shape 2"),
    ],
)
def test_values_that_nobody_checked_are_checked_in_the_run(model: Path, values: dict, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        OrtSession(model).run({"x": np.ones((4, 3), np.float32)}, Held(values))


def test_threads_that_yield_leave_the_cores_to_whoever_runs_next(tmp_path: Path) -> None:
    def port(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [128, 256])

    weight = numpy_helper.from_array(np.zeros((256, 256), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", [port("x")], [port("y")], [weight]
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)

    def busy(session: OrtSession) -> float:
        """Median part of a core that the process uses while it sleeps after a run."""
        spent = []
        for _ in range(9):
            session.run({"x": np.zeros((128, 256), np.float32)})
            begin = time.process_time()
            time.sleep(0.01)
            spent.append((time.process_time() - begin) / 0.01)
        return float(np.median(spent))

    yielding = busy(OrtSession(path, threads=2, yields=True))
    assert yielding < 0.1
    assert busy(OrtSession(path, threads=2)) > yielding


def test_no_provider_steps_in_for_another(model: Path) -> None:
    with pytest.raises(AptEdgeError, match="no TensorrtExecutionProvider"):
        OrtSession(model, providers=("TensorrtExecutionProvider", "CPUExecutionProvider"))
    # This one is part of every build and has no kernel for Add: without the guard the CPU would run the graph.
    with pytest.raises(AptEdgeError, match="AzureExecutionProvider cannot run all"):
        OrtSession(model, providers=("AzureExecutionProvider",))


def test_unreadable_models(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no ONNX model"):
        OrtSession(tmp_path / "absent.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:-20])
    with pytest.raises(ModelError, match="cannot load"):
        OrtSession(damaged)


def test_without_onnxruntime_the_fix_is_named() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from apt_edge.runtime.ort import OrtSession\n"
        "from apt_edge.errors import MissingDependency\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
        "try: OrtSession('model.onnx')\n"
        "except MissingDependency as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'apt-edge[onnxruntime]'" in done.stdout
