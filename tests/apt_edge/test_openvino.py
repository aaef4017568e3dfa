"""OpenVINO sessions on real graphs: the same answers as ONNX Runtime, or an error that says how to go on."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from apt_edge.errors import ModelError
from apt_edge.runtime.openvino import OpenVinoSession
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.session import Session

WIDTH = 64


def port(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(graph: onnx.GraphProto, path: Path) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = softmax(LayerNorm(x W) + f) W, x uint8 [batch, 64]; f float32 [64]; z = not m on bool [2]."""
    weight = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8
    ones = np.ones(WIDTH, np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["number", "w"], ["product"]),
        helper.make_node("LayerNormalization", ["product", "ones"], ["normed"], epsilon=1e-6),
        helper.make_node("Add", ["normed", "f"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "w"], ["y"]),
        helper.make_node("Not", ["m"], ["z"]),
    ]
    inputs = [
        ("x", TensorProto.UINT8, ["batch", WIDTH]),
        ("f", TensorProto.FLOAT, [WIDTH]),
        ("m", TensorProto.BOOL, [2]),
    ]
    outputs = [port("y", TensorProto.FLOAT, ["batch", WIDTH]), port("z", TensorProto.BOOL, [2])]
    constants = [numpy_helper.from_array(array, name) for name, array in (("w", weight), ("ones", ones))]
    graph = helper.make_graph(nodes, "graph", [port(*entry) for entry in inputs], outputs, constants)
    return save(graph, tmp_path_factory.mktemp("openvino") / "model.onnx")


def feeds(rows: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows)
    return {
        "x": generator.integers(0, 256, (rows, WIDTH), np.uint8),
        "f": generator.normal(size=WIDTH).astype(np.float32),
        "m": np.array([True, False]),
    }


def test_float32_says_what_onnxruntime_says(model: Path) -> None:
    session: Session = OpenVinoSession(model, threads=1)
    other = OrtSession(model, threads=1)
    assert (session.inputs, session.outputs) == (other.inputs, other.outputs)
    first, second = session.run(feeds(3)), session.run(feeds(5))
    for got, given in ((first, feeds(3)), (second, feeds(5))):  # the second run left the first one's results alone
        expected = other.run(given)
        assert got["y"].dtype == np.float32
        np.testing.assert_allclose(got["y"], expected["y"], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(got["z"], expected["z"])


def test_threads_get_their_own_answers(model: Path) -> None:
    session = OpenVinoSession(model, threads=1)
    expected = {rows: session.run(feeds(rows))["y"] for rows in (3, 5, 300)}

    def agrees(run: int) -> bool:
        rows = (3, 5, 300)[run % 3]
        return np.array_equal(session.run(feeds(rows))["y"], expected[rows])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, range(120)))


def test_a_transposed_view_is_read_as_it_looks(model: Path) -> None:
    given = feeds()
    view = given | {"x": np.asfortranarray(given["x"])}
    session = OpenVinoSession(model)
    np.testing.assert_array_equal(session.run(view)["y"], session.run(given)["y"])


def test_bfloat16_rounds_and_float32_does_not(model: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    exact = OrtSession(model).run(feeds())["y"]
    rounded = OpenVinoSession(model, precision="bfloat16").run(feeds())["y"]
    assert rounded.dtype == np.float32
    assert 1e-4 < np.abs(rounded - exact).max() < 2e-2 * np.abs(exact).max()


def test_bfloat16_is_refused_where_the_cpu_lacks_it(model: Path) -> None:
    code = (
        "import sys\n"
        "from apt_edge.runtime.openvino import OpenVinoSession\n"
        "from apt_edge.errors import AptEdgeError\n"
        "OpenVinoSession(sys.argv[1])\n"
        "try: OpenVinoSession(sys.argv[1], precision='bfloat16')\n"
        "except AptEdgeError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(model)]
    without = os.environ | {"OV_CPU_MAX_ISA": "AVX2"}
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("this CPU has no bfloat16")
    assert "choose the precision float32" in done.stdout


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"x": np.zeros((3, WIDTH), np.float32)}, "uint8 of shape \\?x64"),
        ({"x": np.zeros((3, 4), np.uint8)}, "found: uint8 of shape 3x4"),
        ({"x": np.zeros(WIDTH, np.uint8)}, "uint8 of shape 64"),
        ({"other": np.zeros(3)}, "inputs are f, m, x"),
    ],
)
def test_feeds_are_never_converted(model: Path, change: dict[str, np.ndarray], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        OpenVinoSession(model).run(feeds() | change)


def test_unreadable_models(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no ONNX model"):
        OpenVinoSession(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_bytes(model.read_bytes()[:-20])
    with pytest.raises(ModelError, match="cannot load"):
        OpenVinoSession(tmp_path / "damaged.onnx")
    ports = [[port("x", TensorProto.BFLOAT16, [2])], [port("y", TensorProto.BFLOAT16, [2])]]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "graph", *ports)
    with pytest.raises(ModelError, match="x has type bf16"):
        OpenVinoSession(save(graph, tmp_path / "bfloat16.onnx"))


def test_without_openvino_the_fix_is_named() -> None:
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from apt_edge.runtime.openvino import OpenVinoSession\n"
        "from apt_edge.errors import MissingDependency\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
        "try: OpenVinoSession('model.onnx')\n"
        "except MissingDependency as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'apt-edge[openvino]'" in done.stdout


SIGNALLED = """
import faulthandler, os, signal, sys
from apt_edge.runtime.openvino import OpenVinoSession

faulthandler.enable()  # gives this thread a stack for signals, as many programs do
first, second = (OpenVinoSession(sys.argv[1]) for _ in range(2))
del first
del second
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_after_two_sessions_does_not_kill(model: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(model)]
    assert subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2]).returncode == 7
