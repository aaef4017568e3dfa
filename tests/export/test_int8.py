"""INT8: which layers, that they really compute in int8, that the rest does not, and refusals with reasons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.errors import ConfigError, GateError
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.ort import OrtSession
from export.graph.quantise import STEPS
from export.proof.parity import torch_logits
from tests.conftest import TINY_CLIP, tiny_pack
from tests.export.exporting import LABELS, PAGES, export, logits, target, tiny_export

LOOSE = ("int8_tolerance.max_abs=10", "int8_tolerance.kl=10", "int8_tolerance.top1_agreement=0")
INT8 = ("int8=true", "int8_tolerance.top1_agreement=0.5", "int8_tolerance.kl=0.1")
TARGETS = sorted(path.stem for path in PAGES.glob("*.toml") if path.stem not in ("jetson-jp5", "onnxruntime-cuda"))


def graph_of(out: Path) -> onnx.GraphProto:
    return onnx.load(out / "model.onnx").graph


def quantised(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes whose both inputs come out of a DequantizeLinear."""
    wide = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in graph.node if node.op_type == "MatMul" and set(node.input) <= wide}


@pytest.mark.parametrize("page", TARGETS)
def test_every_linear_layer_of_the_blocks_and_nothing_else(tiny_vit, tiny_frames, tmp_path, page):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target(page, *INT8), tokens=8)
    graph, report = graph_of(tmp_path / "m"), sidecar["int8"]
    layers = {f"blocks.{block}.{part}/MatMul" for block in (0, 1) for part in ("attn", "attn.proj", "fc1", "fc2")}
    pooled = {"blocks.1.fc2/MatMul/pooled"} if target(page).early_pooling else set()  # it runs on the tokens' mean
    layers -= {name.removesuffix("/pooled") for name in pooled}
    left = {item["at"] for item in report["left"]}
    assert quantised(graph) == layers - left
    assert left - layers == pooled
    assert (report["layers"], report["of"]) == (len(layers - left), 8)
    assert report["layers"] >= 6
    assert (report["calibration_clips"], report["judged_clips"]) == (2, 2)
    assert sidecar["opset"] >= 19
    types = {value.name: value.data_type for value in graph.initializer}
    scale = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}[sidecar["precision"]]
    linear = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {types[node.input[1]] for node in linear} == {scale}
    if report["symmetric"]:
        constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
        assert not any(constants[node.input[2]].any() for node in linear)
    assert report["symmetric"] == (sidecar["target"]["runtime"] in ("tensorrt", "tensorrt-rtx"))
    if sidecar["gate"]:
        assert sidecar["gate"]["fused_attention"] == 2


def test_onnx_runtime_computes_in_int8(tiny_vit, tiny_frames, tmp_path):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("onnxruntime-cpu", *INT8), tokens=8)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "m" / "model.onnx", options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert found["MatMulIntegerToFloat"] == sidecar["int8"]["layers"]
    assert found["DequantizeLinear"] == 0
    assert found["MultiHeadAttention"] == 2


@pytest.mark.parametrize("page", ["onnxruntime-cpu", "tensorrt-rtx"])
def test_the_report_says_what_the_file_does(tiny_vit, tiny_frames, tmp_path, page):
    model = folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit)
    classes = torch_logits(model, tiny_frames, TINY_CLIP).argmax(axis=1)
    classes[1] = (classes[1] + 1) % len(LABELS)
    exporting = tiny_export(model, tiny_frames)
    exporting.classes = classes
    report = exporting.to(target(page, *INT8), tmp_path / "int8")["int8"]
    plain = tiny_export(model, tiny_frames).to(target(page), tmp_path / "plain")
    assert plain["int8"] is None
    others = tiny_frames[1::2]  # that it was not calibrated on
    found = np.concatenate([logits(tmp_path / "int8", {"clip": frames[None]}) for frames in others])
    assert report["drift"]["max_abs"] == pytest.approx(np.abs(found - exporting.reference[1::2]).max(), rel=0.3)
    assert report["drift"]["max_abs"] > 2 * plain["parity"]["max_abs"]
    assert 0.9 < report["drift"]["centred_cosine"] < 1
    assert report["accuracy"] == {"before": 0.5, "after": (found.argmax(1) == classes[1::2]).mean(), "clips": 2}
    sizes = {name: (tmp_path / name / "model.onnx").stat().st_size for name in ("int8", "plain")}
    assert report["weight_bytes"] == pytest.approx(sizes["int8"] / sizes["plain"], abs=0.1)
    assert ModelDir.load(tmp_path / "int8").facts["target"]["tolerance"]["max_abs"] == 0.15


@pytest.mark.parametrize("changes", [("batch.opt=2", "batch.max=4"), ("prompts.mode=bound",)])
@pytest.mark.parametrize("page", ["onnxruntime-cpu", "tensorrt-rtx"])
def test_int8_with_a_batch_and_with_bound_prompts(tiny_vit, tiny_frames, tmp_path, page, changes):
    export(tiny_vit, tiny_frames, tmp_path / "plain", chosen=target(page, *INT8), tokens=8)
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target(page, *INT8, *changes), tokens=8)
    model = ModelDir.load(tmp_path / "m")
    session = OrtSession(model.onnx, threads=1)
    found = session.run(model.feeds(session.inputs, tiny_frames[0]))["logits"]
    assert np.abs(found - logits(tmp_path / "plain", {"clip": tiny_frames[:1]})).max() < 2e-3


def outlier(vit) -> FoldedModel:
    """A model with one hidden unit of block 0's MLP a hundred times as large as it was."""
    model = folded_model(tiny_pack(vit, tokens=8), vit)
    block = model.vit.block(0)
    block.fc1.weight.data[3] *= 100
    block.fc2.weight.data[:, 3] /= 100
    return model


def test_a_layer_with_outliers_stays_as_it_is(tiny_vit, tiny_frames, tmp_path, monkeypatch):
    exporting = tiny_export(outlier(tiny_vit), np.repeat(tiny_frames, 2, axis=0))  # both halves hold every clip
    report = exporting.to(target("onnxruntime-cpu", *INT8), tmp_path / "m")["int8"]
    left = {item["at"]: item["steps"] for item in report["left"]}
    assert left["blocks.0.fc2/MatMul"] < STEPS
    assert left["blocks.1.fc2/MatMul/pooled"] is None
    monkeypatch.setattr("export.graph.quantise.STEPS", 0.0)
    with_it = exporting.to(target("onnxruntime-cpu", "int8=true", *LOOSE), tmp_path / "with")["int8"]
    assert with_it["layers"] > report["layers"]
    assert with_it["drift"]["max_abs"] > 2 * report["drift"]["max_abs"]


def test_too_much_drift_is_refused_with_numbers_and_leaves_nothing(tiny_vit, tiny_frames, tmp_path):
    chosen = target("onnxruntime-cpu", *INT8, "int8_tolerance.max_abs=1e-6")
    with pytest.raises(GateError, match=r"(?s)int8 costs too much: max .logit difference.*centred cosine") as caught:
        tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames).to(chosen, tmp_path / "m")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_int8_is_calibrated_on_one_half_of_the_clips_and_judged_on_the_other(tiny_vit, tiny_frames, tmp_path):
    model, chosen = folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), target("onnxruntime-cpu", *INT8, *LOOSE)
    made = {}
    for name, changed in (("as they are", []), ("judged", [1, 3]), ("calibration", [0, 2])):
        frames = tiny_frames.copy()
        frames[changed] //= 4
        sidecar = tiny_export(model, frames).to(chosen, tmp_path / name)
        made[name] = (sidecar["onnx_sha256"], sidecar["int8"]["drift"])
        found = np.concatenate([logits(tmp_path / name, {"clip": one[None]}) for one in frames])
        moved = np.abs(found - tiny_export(model, frames).reference)
        assert sidecar["parity"]["clips"] == sidecar["int8"]["judged_clips"] == 2
        assert sidecar["parity"]["mean_abs"] == pytest.approx(moved[1::2].mean(), rel=0.05)
    assert made["judged"][0] == made["as they are"][0] != made["calibration"][0]
    assert made["judged"][1] != made["as they are"][1]


def test_one_clip_is_too_few_for_int8(tiny_vit, tiny_frames, tmp_path):
    model = folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit)
    with pytest.raises(ConfigError, match=r"(?s)calibrated on one half and judged on the other.*--count"):
        tiny_export(model, tiny_frames[:1]).to(target("onnxruntime-cpu", *INT8), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("page", "reason"), [("jetson-jp5", "TensorRT 10"), ("onnxruntime-cuda", "CUDA")])
def test_targets_without_int8_say_so(page, reason):
    with pytest.raises(ConfigError, match=reason):
        target(page, "int8=true")
