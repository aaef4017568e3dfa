"""Overflow that was planted: predicted, located, repaired, and shown to be real by the graph that is not repaired."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch

import export.model
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.errors import GateError
from apt_edge.runtime.ort import OrtSession
from apt_edge.video.preprocess import normalise
from export.graph import precision
from export.graph.dialect import Form, emulated, plain_form, untyped
from export.graph.rules import tidy
from export.graph.trace import TaskInputs, constants, trace
from export.proof import parity
from export.proof.parity import torch_logits
from export.proof.ranges import measure
from export.rewrites import Pixels, rewritten
from export.target import Prompts
from tests.conftest import TINY_CLIP, tiny_pack
from tests.export.exporting import target, tiny_export


def planted(vit, block=None, part=None, factor=1.0, channel=0.0) -> FoldedModel:
    """A folded model with one prompt tensor scaled, or one channel of the residual stream raised by block 0's MLP."""
    pack = tiny_pack(vit, tokens=8)
    if part:
        getattr(pack.kv[block], part)[:] *= factor
    model = copy.deepcopy(folded_model(pack, vit))
    model.vit.block(0).fc2.bias.data[5] += channel
    return model


def numerics_of(model, frames, out, page="tensorrt-rtx", *changes):
    sidecar = tiny_export(model, frames).to(target(page, *changes), out)
    return {**sidecar["numerics"], "float32_nodes": sidecar["float32_nodes"]}


def half_without_repair(model, frames, keep=lambda graph: set()):
    """Logits of the float16 graph whose norms are written in pieces, all in float16 but what `keep` says."""
    module = TaskInputs(rewritten(model, None), Pixels(TINY_CLIP, True))
    graph, _ = untyped(
        trace(module, torch.from_numpy(frames[:1])), constants(module), Prompts(), Form("float16", "decomposed", 13)
    )
    precision.rounded(graph, "float16", keep(graph.graph))
    tidy(graph)
    return graph


def run(graph, frames, folder):
    ir.save(graph, folder / "m.onnx")
    return OrtSession(folder / "m.onnx").run({"clip": frames[:1]})["logits"]


def test_nothing_planted_nothing_found(tiny_vit, tiny_frames, tmp_path):
    found = numerics_of(planted(tiny_vit), tiny_frames, tmp_path / "m")
    assert found["chosen"] == "float16"
    assert found["tried"] == found["located"] == []
    assert not found["norm_input_squares_overflow"]


def test_ranges_are_those_of_the_model(tiny_vit, tiny_frames, tmp_path):
    model = planted(tiny_vit, channel=300.0)
    module = TaskInputs(rewritten(model, None), Pixels(TINY_CLIP, True))
    graph, _ = untyped(
        trace(module, torch.from_numpy(tiny_frames[:1])),
        constants(module),
        Prompts(),
        Form("float32", "decomposed", 20),
    )
    ranges = {item.node: item for item in measure(graph, [{"clip": frames[None]} for frames in tiny_frames], tmp_path)}
    seen: dict[str, float] = {}
    blocks = [model.vit.block(index) for index in range(2)]
    for index, block in enumerate(blocks):
        block.register_forward_hook(
            lambda _, __, out, i=index: seen.update(
                {f"blocks.{i}/Add_2": max(seen.get(f"blocks.{i}/Add_2", 0), float(out.abs().max()))}
            )
        )
    torch_logits(model, tiny_frames, TINY_CLIP)
    assert ranges["blocks.0/Add_2"].max_abs == pytest.approx(seen["blocks.0/Add_2"], rel=1e-5)
    assert any("/LayerNormalization" in reader for reader in ranges["blocks.0/Add_2"].readers)


def test_a_channel_of_300_would_overflow_in_the_norm_and_does_not(tiny_vit, tiny_frames, tmp_path):
    model = planted(tiny_vit, channel=300.0)
    found = numerics_of(model, tiny_frames, tmp_path / "m")
    assert found["norm_input_squares_overflow"]
    assert found["largest"]["norm_input"]["at"].startswith("blocks.")
    assert {"blocks.1.norm1/LayerNormalization"} <= set(found["float32_nodes"])
    broken = run(half_without_repair(model, tiny_frames), tiny_frames, tmp_path)
    kept = run(
        half_without_repair(model, tiny_frames, lambda g: precision.always_float32(g, "float16")), tiny_frames, tmp_path
    )
    reference = tiny_export(model, tiny_frames).reference[:1]
    assert np.abs(kept - reference).max() < 2e-2
    assert not np.abs(broken - reference).max() < 0.5


@pytest.mark.parametrize("page", ["tensorrt-rtx", "jetson-jp6-orin"])
def test_a_residual_stream_beyond_float16_becomes_an_island(tiny_vit, tiny_frames, tmp_path, page):
    model = planted(tiny_vit, channel=1e5)
    found = numerics_of(model, tiny_frames, tmp_path / "m", page)
    assert found["chosen"] == "float16 with islands of float32"
    assert "blocks.0/Add_2" in {item["at"] for item in found["located"]}
    assert "reaches 1e+05" in found["reason"]
    assert {"blocks.0.fc2/Add", "blocks.0/Add_2", "blocks.1/Add"} <= set(found["float32_nodes"])
    broken = run(unrepaired(model, tiny_frames), tiny_frames, tmp_path)
    assert not np.isfinite(broken).all()


def unrepaired(model, frames):
    """What the float16 graph that nobody checked would compute."""
    module = TaskInputs(rewritten(model, None), Pixels(TINY_CLIP, True))
    form = plain_form(target("tensorrt-rtx"))
    graph, _ = untyped(trace(module, torch.from_numpy(frames[:1])), constants(module), Prompts(), form)
    return emulated(graph, form)


@pytest.mark.parametrize("page", ["tensorrt-rtx", "jetson-jp6-orin"])
def test_a_hidden_unit_beyond_float16_becomes_an_island_in_every_opset(tiny_vit, tiny_frames, tmp_path, page):
    """Opset 17 writes GELU in pieces: all of them are the island."""
    model = planted(tiny_vit)
    model.vit.block(0).fc1.bias.data[3] = 1e5
    model.vit.block(0).fc2.weight.data[:, 3] = 1e-6
    found = numerics_of(model, tiny_frames, tmp_path / "m", page)
    assert found["chosen"] == "float16 with islands of float32"
    gelu = [node for node in found["float32_nodes"] if node.startswith("blocks.0/Gelu")]
    assert len(gelu) == (1 if page == "tensorrt-rtx" else 5)
    assert not np.isfinite(run(unrepaired(model, tiny_frames), tiny_frames, tmp_path)).all()


@pytest.mark.parametrize("page", ["tensorrt-rtx", "jetson-jp72", "datacenter"])
def test_a_value_prompt_a_thousand_times_too_large_gets_float32_accumulation(tiny_vit, tiny_frames, tmp_path, page):
    model = planted(tiny_vit, 1, "value", 1e3)
    found = numerics_of(model, tiny_frames, tmp_path / "m", page)
    assert found["chosen"] == "float16 with float32 accumulation in the attention"
    assert list(found["drowning"]) == ["blocks.1.attn.prompt_value"]
    assert {"blocks.0.attn/Attention", "blocks.1.attn/Attention"} <= set(found["float32_nodes"])
    elsewhere = numerics_of(model, tiny_frames, tmp_path / "jp6", "jetson-jp6-orin")
    assert elsewhere["chosen"] == "float16"  # TensorRT 10.3 has no operator for it: said, not repaired
    assert "not repairable on this target: blocks.1.attn.prompt_value" in elsewhere["reason"]


def test_scores_beyond_float16_get_float32_accumulation_or_bfloat16(tiny_vit, tiny_frames, tmp_path):
    model = planted(tiny_vit, 0, "key", 3e4)
    found = numerics_of(model, tiny_frames, tmp_path / "m")
    assert found["chosen"] == "float16 with float32 accumulation in the attention"
    assert [item["at"] for item in found["located"]] == ["blocks.0.attn/MatMul_2"]
    assert numerics_of(model, tiny_frames, tmp_path / "jp6", "jetson-jp6-orin")["chosen"] == "bfloat16"


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_prompt_beyond_float16_needs_bfloat16_or_is_an_instruction(tiny_vit, tiny_frames, tmp_path, part):
    model = planted(tiny_vit, 0, part, 1e6)
    found = numerics_of(model, tiny_frames, tmp_path / "m", "datacenter")
    assert found["chosen"] == "bfloat16"
    assert list(found["prompts_beyond_float16"]) == [f"blocks.0.attn.prompt_{part}"]
    with pytest.raises(
        GateError, match=f"no form of this model passes for datacenter(.|\n)*blocks.0.attn.prompt_{part} reaches"
    ):
        numerics_of(model, tiny_frames, tmp_path / "refused", "datacenter", "repairs=[]")
    assert not (tmp_path / "refused").exists()


def test_bfloat16_is_proved_on_a_float32_graph_that_rounds_as_it_does(tiny_vit, tiny_frames, tmp_path):
    sidecar = tiny_export(planted(tiny_vit), tiny_frames).to(
        target("tensorrt-rtx", "precision=bfloat16"), tmp_path / "m"
    )
    assert sidecar["precision"] == "bfloat16"
    assert "rounded to bfloat16" in sidecar["parity"]["session"]
    reference = tiny_export(planted(tiny_vit), tiny_frames).to(target("tensorrt-rtx"), tmp_path / "half")
    assert sidecar["parity"]["max_abs"] > 3 * reference["parity"]["max_abs"]  # 8 significant bits against 11
    assert sidecar["gate"]["fused_attention"] == 2


def test_a_form_that_fails_parity_is_followed_by_the_next(tiny_vit, tiny_frames, tmp_path, monkeypatch):
    model = planted(tiny_vit)
    with pytest.raises(GateError, match=r"float16: parity failed(.|\n)*islands: (.|\n)*bfloat16: parity failed"):
        numerics_of(model, tiny_frames, tmp_path / "m", "tensorrt-rtx", "tolerance.max_abs=1e-9")
    monkeypatch.setattr(export.model, "gate", refusing_the_first())
    found = numerics_of(model, tiny_frames, tmp_path / "m")
    assert found["tried"] == [{"form": "float16", "refused": "parity failed on purpose"}]
    assert found["chosen"] == "float16 with islands of float32"


def refusing_the_first():
    """The parity gate, but for its first call."""
    calls = []

    def gate(report, tolerance):
        calls.append(report)
        if len(calls) == 1:
            raise GateError("parity failed on purpose")
        parity.gate(report, tolerance)

    return gate


def test_the_twin_rounds_a_normalised_clip_as_the_file_does(tiny_vit, tiny_frames):
    module = TaskInputs(rewritten(planted(tiny_vit), None), None)
    clip = torch.from_numpy(normalise(tiny_frames[0], TINY_CLIP)[None])
    graph, _ = untyped(trace(module, clip), constants(module), Prompts(), Form("float16", "decomposed", 17))
    twin = emulated(graph.clone(), Form("float16", "decomposed", 17))
    (reader,) = [use.node for use in twin.graph.inputs[0].uses()]
    assert reader.op_type == "Cast"
