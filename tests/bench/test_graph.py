"""MACs of exported graphs: the closed forms must say the same, to the unit."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from apt_edge.errors import ModelError
from bench.flops import make_method
from bench.graph import graph_macs
from tests.bench.conftest import LABELS, TOKENS
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("name", "method", "settings", "deployed"),
    [
        ("linear", "linear", {}, True),
        ("apt", "apt", {"tokens": TOKENS, "start": 1}, True),
        ("apt-half", "apt", {"tokens": TOKENS, "start": 1}, True),
        ("vpt-tokens", "vpt-deep", {"tokens": TOKENS}, False),
    ],
)
def test_graphs_cost_what_the_closed_form_says(
    exported: Path, name: str, method: str, settings: dict[str, int], deployed: bool
) -> None:
    expected = make_method(method, TINY, settings).clip_macs(len(LABELS), deployed)
    assert graph_macs(exported / name / "model.onnx") == expected


def save(path: Path, node: onnx.NodeProto, x: list, w: list, y: list) -> Path:
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("w", w), ("y", y))]
    onnx.save(helper.make_model(helper.make_graph([node], "graph", ports[:2], ports[2:])), path)
    return path


def test_transposed_gemm_and_grouped_convolution(tmp_path: Path) -> None:
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)
    assert graph_macs(save(tmp_path / "gemm.onnx", gemm, [7, 2], [5, 7], [2, 5])) == 2 * 7 * 5
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    assert graph_macs(save(tmp_path / "conv.onnx", conv, [1, 4, 9], [6, 2, 3], [1, 6, 7])) == 6 * 7 * 2 * 3


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    einsum = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    with pytest.raises(ModelError, match="Einsum is not known"):
        graph_macs(save(tmp_path / "einsum.onnx", einsum, [2, 3], [3, 4], [2, 4]))
    matmul = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ModelError, match="shape of tensor 'y'"):
        graph_macs(save(tmp_path / "free.onnx", matmul, ["batch", 3], [3, 4], ["batch", 4]))
