"""Export: parity, prompt constants bit for bit, and gates that can fail."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from apt_edge.backbone.checkpoints import backbone_hash
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.errors import ConfigError, GateError, ModelError
from apt_edge.methods.vpt_deep import VptDeepTokens
from apt_edge.runtime.model_dir import ModelDir
from export.target import Target, Tolerance
from export.to_onnx import export_model
from export.graph.trace import TypedModel
from tests.conftest import TINY_CLIP, tiny_model, tiny_pack

LABELS = tuple(f"class {i}" for i in range(5))
METHODS = [
    ("apt", {"tokens": 8}),
    ("apt", {"tokens": 3, "start": 1}),
    ("vpt-deep", {"tokens": 4}),
    ("linear", {}),
]


def target(precision="float32", max_abs=1e-4, compiler="none", opset=18):
    return Target(
        name="test",
        opset=opset,
        precision=precision,
        prompt_heads="shared" if compiler == "none" else "expanded",
        compiler=compiler,
        tolerance=Tolerance(max_abs=max_abs, top1_agreement=0.5),
    )


DONE: dict[str, Path] = {}


def export(vit, clips, out, method="apt", chosen=None, **settings):
    """Export a pack of `vit`; the same request is traced once per run and copied afterwards."""
    model = folded_model(tiny_pack(vit, method, **settings), vit)
    chosen = chosen or target()
    key = f"{backbone_hash(vit)} {method} {chosen} {settings}"
    if key not in DONE:
        made = Path(tempfile.mkdtemp()) / "m"
        atexit.register(shutil.rmtree, made.parent)
        export_model(model, made, chosen, clips=clips, clip=TINY_CLIP, labels=LABELS, facts={"method": method})
        DONE[key] = made
    shutil.copytree(DONE[key], out)
    return model, json.loads((out / "model.json").read_text())


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_float32_graph_equals_torch(tiny_vit, tiny_clips, tmp_path, method, settings):
    _, sidecar = export(tiny_vit, tiny_clips, tmp_path / "m", method, **settings)
    assert sidecar["parity"]["max_abs"] < 1e-4
    assert sidecar["parity"]["max_logit"] > 0.1
    assert sidecar["attention"] == 2


def test_the_target_sets_the_opset(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", chosen=target(opset=20), tokens=8)
    assert onnx.load(tmp_path / "m" / "model.onnx").opset_import[0].version == 20


def test_float16_is_written_into_the_graph(tiny_vit, tiny_clips, tmp_path):
    _, sidecar = export(tiny_vit, tiny_clips, tmp_path / "m", chosen=target("float16", 5e-2), tokens=8)
    graph = onnx.load(tmp_path / "m" / "model.onnx").graph
    types = {t.name: t.data_type for t in graph.initializer}
    assert all(types[name] == onnx.TensorProto.FLOAT16 for name in sidecar["prompts"])
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m" / "model.onnx")).graph
    value_types = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    assert value_types["logits"] == onnx.TensorProto.FLOAT
    for node in graph.node:
        if node.op_type == "Softmax":
            assert value_types[node.output[0]] == onnx.TensorProto.FLOAT16
        if node.op_type == "LayerNormalization":
            assert value_types[node.output[0]] == onnx.TensorProto.FLOAT
    assert sidecar["parity"]["max_abs"] > 1e-6  # half precision that costs nothing would not be half precision


def test_prompts_are_head_shared_constants_in_the_file(tiny_vit, tiny_clips, tmp_path):
    model, sidecar = export(tiny_vit, tiny_clips, tmp_path / "m", tokens=8)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m" / "model.onnx").graph.initializer}
    assert len(sidecar["prompts"]) == 4
    assert stored["blocks.1.attn.prompt_value"].shape == (1, 1, 8, 32)
    assert np.array_equal(stored["blocks.1.attn.prompt_value"], model.extra[1].value.numpy())


def test_the_graph_really_uses_the_prompts(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", tokens=8)
    graph = onnx.load(tmp_path / "m" / "model.onnx")
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    before = session.run(None, {"clip": tiny_clips[:1]})[0]
    tensor = next(t for t in graph.graph.initializer if t.name == "blocks.0.attn.prompt_value")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))
    after = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"clip": tiny_clips[:1]})[0]
    assert np.abs(before - after).max() > 1e-2


def test_unfolded_vpt_gives_the_folded_logits(tiny_vit, tiny_clips, tmp_path):
    tuned = tiny_model(tiny_vit, "vpt-deep", tokens=4)
    folded = FoldedModel(tiny_vit, tuned.head, tuned.method.fold(tiny_vit))
    tokens = VptDeepTokens(tiny_vit, tuned.method, tuned.head).requires_grad_(False)
    outputs = []
    for name, model in {"folded": folded, "tokens": tokens}.items():
        export_model(model, tmp_path / name, target(), clips=tiny_clips, clip=TINY_CLIP, labels=LABELS, facts={})
        session = onnxruntime.InferenceSession(tmp_path / name / "model.onnx")
        outputs.append(session.run(None, {"clip": tiny_clips[:1]})[0])
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-4


def test_half_precision_leaves_the_norms_weights_as_they_are(tiny_vit):
    model = FoldedModel(tiny_vit, tiny_model(tiny_vit, "linear").head, {})
    typed, own = TypedModel(model, half=True).vit.block(0).norm1.weight, tiny_vit.block(0).norm1.weight
    assert torch.equal(typed, own)
    assert not torch.equal(typed, own.half().float())


def test_parity_gate_fails_and_leaves_nothing(tiny_vit, tiny_clips, tmp_path):
    with pytest.raises(GateError, match="parity failed"):
        export(tiny_vit, tiny_clips, tmp_path / "m", chosen=target("float16", max_abs=1e-9), tokens=8)
    assert list(tmp_path.iterdir()) == []


def test_overflow_in_half_precision_is_caught(tiny_vit, tiny_clips, tmp_path):
    pack = tiny_pack(tiny_vit, tokens=8)
    pack.kv[0].value[:] *= 1e6
    model = folded_model(pack, tiny_vit)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(GateError, match="parity failed"):
        export_model(
            model,
            tmp_path / "m",
            target("float16", 5e-2),
            clips=tiny_clips,
            clip=TINY_CLIP,
            labels=LABELS,
            facts={},
        )


def test_float16_refuses_unfolded_models(tiny_vit, tiny_clips, tmp_path):
    tuned = tiny_model(tiny_vit, "vpt-deep", tokens=4)
    model = VptDeepTokens(tiny_vit, tuned.method, tuned.head)
    with pytest.raises(ConfigError, match="only folded"):
        export_model(
            model, tmp_path / "m", target("float16"), clips=tiny_clips, clip=TINY_CLIP, labels=LABELS, facts={}
        )


def test_model_dir_notices_changed_files(tiny_vit, tiny_clips, tmp_path):
    export(tiny_vit, tiny_clips, tmp_path / "m", tokens=8)
    model = ModelDir.load(tmp_path / "m")
    assert model.labels == LABELS
    assert model.clip == TINY_CLIP
    with pytest.raises(ModelError, match="input"):
        model.check_input("clip", (1, 3, 8, 32, 32))
    with (tmp_path / "m" / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match="is not the file"):
        ModelDir.load(tmp_path / "m")


def test_scaled_queries_are_exact(tiny_vit, tiny_clips):
    from export.graph.trace import scaled_queries

    vit = tiny_vit.double()
    vit.positions = vit.positions.double()
    clip = torch.from_numpy(tiny_clips).double()
    assert (scaled_queries(vit)(clip) - vit(clip)).abs().max() < 1e-12
