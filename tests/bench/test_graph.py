"""MACs of exported graphs: the closed forms must say the same, to the unit."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ModelError
from bench.build import build
from bench.flops import make_method
from bench.graph import graph_macs
from bench.suite import RandomModel
from tests.bench.conftest import LABELS, TOKENS
from tests.conftest import TINY


def pooled(rows: int) -> int:
    """What is saved by averaging in front of the last block's second MLP layer: it runs on one row."""
    return (rows - 1) * TINY.mlp_ratio * TINY.width**2


@pytest.mark.parametrize("name", ["apt", "apt-decomposed", "apt-attention", "apt-half"])
def test_every_dialect_of_one_model_costs_what_the_closed_form_says(exported: Path, name: str) -> None:
    facts = json.loads((exported / name / "model.json").read_text())
    form = {"apt": "multi-head", "apt-attention": "attention"}.get(name, "decomposed")
    assert facts["attention_form"] == form
    expected = make_method("apt", TINY, {"tokens": TOKENS, "start": 1}).clip_macs(len(LABELS), deployed=True)
    saved = pooled(TINY.tokens) if facts["target"]["early_pooling"] else 0
    assert graph_macs(exported / name / "model.onnx") == expected - saved


def test_other_methods_cost_what_the_closed_form_says(exported: Path) -> None:
    linear = make_method("linear", TINY, {}).clip_macs(len(LABELS), deployed=True)
    assert graph_macs(exported / "linear" / "model.onnx") == linear - pooled(TINY.tokens)
    vpt = make_method("vpt-deep", TINY, {"tokens": TOKENS}).clip_macs(len(LABELS), deployed=False)
    assert graph_macs(exported / "vpt-tokens" / "model.onnx") == vpt - pooled(TINY.tokens + TOKENS)


@pytest.mark.parametrize("as_tokens", [False, True])
def test_plain_exports_cost_what_the_closed_form_says_to_the_unit(
    as_tokens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    settings = {"tokens": TOKENS}
    request = RandomModel(size="tiny", method="vpt-deep", settings=settings, as_tokens=as_tokens, export="plain")
    path = build(request, "onnxruntime-cpu", tmp_path) / "model.onnx"
    expected = make_method("vpt-deep", TINY, settings).clip_macs(request.classes, deployed=not as_tokens)
    assert graph_macs(path) == expected


def save(path: Path, nodes: list[onnx.NodeProto], inputs: int = 2, **shapes: list) -> Path:
    """A graph whose first `inputs` tensors come from outside; the last one is its output."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "graph", ports[:inputs], ports[-1:], value_info=ports[inputs:-1])
    onnx.save(helper.make_model(graph), path)
    return path


def test_transposed_gemm_and_grouped_convolution(tmp_path: Path) -> None:
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)
    assert graph_macs(save(tmp_path / "gemm.onnx", [gemm], x=[7, 2], w=[5, 7], y=[2, 5])) == 2 * 7 * 5
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    assert graph_macs(save(tmp_path / "conv.onnx", [conv], x=[1, 4, 9], w=[6, 2, 3], y=[1, 6, 7])) == 6 * 7 * 2 * 3


HEADS, N, S, D = 2, 5, 8, 3
APART = {"q": [1, HEADS, N, D], "k": [1, HEADS, S, D], "v": [1, HEADS, S, D]}  # heads beside each other, and joined:
JOINED = {"q": [1, N, HEADS * D], "k": [1, S, HEADS * D], "v": [1, S, HEADS * D]}


def test_all_forms_of_one_attention_cost_the_same(tmp_path: Path) -> None:
    products = [
        helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    between = {"turned": [1, HEADS, D, S], "scores": [1, HEADS, N, S], "weights": [1, HEADS, N, S]}
    expected = 2 * N * S * HEADS * D
    assert graph_macs(save(tmp_path / "products.onnx", products, 3, **APART, **between, y=APART["q"])) == expected
    operator = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    assert graph_macs(save(tmp_path / "operator.onnx", [operator], 3, **APART, y=APART["q"])) == expected
    joined = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=HEADS)
    assert graph_macs(save(tmp_path / "joined.onnx", [joined], 3, **JOINED, y=JOINED["q"])) == expected


@pytest.mark.parametrize(
    "shapes",
    [
        JOINED | {"past": [1, HEADS, 4, D]},
        JOINED | {"k": APART["k"], "v": APART["v"]},
        JOINED | {"k": [1, S, D], "v": [1, S, D]},  # both heads of the queries share one of the keys
    ],
)
def test_other_attentions_are_refused(tmp_path: Path, shapes: dict[str, list]) -> None:
    inputs = ["q", "k", "v", *["" for _ in range(2)], *(["past"] if "past" in shapes else [])]
    node = helper.make_node("Attention", inputs, ["y"])
    with pytest.raises(ModelError, match="one layout alone"):
        graph_macs(save(tmp_path / "other.onnx", [node], len(shapes), **shapes, y=JOINED["q"]))


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    einsum = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    with pytest.raises(ModelError, match="Einsum is not known"):
        graph_macs(save(tmp_path / "einsum.onnx", [einsum], x=[2, 3], w=[3, 4], y=[2, 4]))
    matmul = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ModelError, match="shape of tensor 'y'"):
        graph_macs(save(tmp_path / "free.onnx", [matmul], x=["rows", 3], w=[3, 4], y=["rows", 4]))


def test_a_free_batch_is_counted_as_one_clip(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["y", "v"], ["z"])]
    shapes = {"x": ["batch", 3], "w": [3, 4], "v": [4, 5], "y": ["batch", 4]}
    assert graph_macs(save(tmp_path / "told.onnx", nodes, 3, **shapes, z=["batch", 5])) == 3 * 4 + 4 * 5
    told_in_part = save(tmp_path / "inferred.onnx", nodes, 3, **shapes | {"y": ["other", 4]}, z=["batch", 5])
    assert graph_macs(told_in_part) == 3 * 4 + 4 * 5
