"""The compile gate with the real TensorRT-RTX compiler, and the graphs that must fail it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from apt_edge.errors import ConfigError, GateError
from export.engine import progress
from export.engine.audit import audit
from export.engine.compiler import Build, build
from export.engine.gate import prove_compiled
from export.engine.layers import Layer, parse_layer_table
from tests.export.engine.graphs import NAMES, attention_graph, profiles

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")


def test_every_attention_is_fused_and_every_prompt_is_there(tmp_path):
    report = prove_compiled(attention_graph(tmp_path / "m.onnx"), 2, NAMES)
    assert (report["fused_attention"], report["attention"], report["prompt_constants"]) == (2, 2, 4)
    assert report["compiler"].startswith("tensorrt-rtx 1.")
    assert report["deterministic"]
    assert re.fullmatch("[0-9a-f]{64}", report["plan_sha256"])
    assert report["activation_bytes"] > 0
    assert report["plan_bytes"] > report["weight_bytes"] > 2 * 3 * 64 * 64 * 2
    assert report["layers"] > 2


def test_the_operator_and_a_free_batch_pass(tmp_path):
    for operator in (False, True):
        graph = attention_graph(tmp_path / f"{operator}.onnx", operator=operator, batch="batch")
        report = prove_compiled(graph, 2, NAMES, profiles=profiles())
        assert (report["fused_attention"], report["prompt_constants"]) == (2, 4)


def test_bound_prompts_pass_without_names(tmp_path):
    graph = attention_graph(tmp_path / "m.onnx", bound=True, batch="batch")
    assert prove_compiled(graph, 2, [], profiles=profiles(bound=True))["prompt_constants"] == 0


def test_capabilities_change_the_plan_and_unknown_ones_are_refused(tmp_path):
    graph = attention_graph(tmp_path / "m.onnx")
    plans = {
        prove_compiled(graph, 2, NAMES, capabilities=chosen)["plan_sha256"] for chosen in (["SM86"], ["SM86", "SM120"])
    }
    assert len(plans) == 2
    with pytest.raises(ConfigError, match=r"cannot compile for SM90\n  found: SM75, "):
        prove_compiled(graph, 2, NAMES, capabilities=["SM90"])


def test_a_free_axis_without_profile_is_refused(tmp_path):
    graph = attention_graph(tmp_path / "m.onnx", batch="batch")
    with pytest.raises(ConfigError, match="input clip has a free axis and no profile"):
        prove_compiled(graph, 2, NAMES)


def test_float32_fails(tmp_path):
    with pytest.raises(GateError, match="0 of 2 attentions are fused"):
        prove_compiled(attention_graph(tmp_path / "m.onnx", precision="float32"), 2, NAMES)


def test_the_operator_in_float32_fails(tmp_path):
    with pytest.raises(GateError, match="cannot build"):
        prove_compiled(attention_graph(tmp_path / "m.onnx", precision="float32", operator=True), 2, NAMES)


def test_exposed_attention_probabilities_fail(tmp_path):
    with pytest.raises(GateError, match="1 of 2 attentions are fused"):
        prove_compiled(attention_graph(tmp_path / "m.onnx", expose=True), 2, NAMES)


def test_one_head_fails(tmp_path):
    with pytest.raises(GateError, match="0 of 2 attentions are fused"):
        prove_compiled(attention_graph(tmp_path / "m.onnx", heads=1), 2, NAMES)


def test_no_attention_at_all_fails(tmp_path):
    with pytest.raises(GateError, match="0 of 0 attentions"):
        audit(Build("c", b"", (Layer("gemm", ()),), 0, None), 0, [])


def test_attention_with_past_key_fails(tmp_path):
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 2, length, 32])
        for name, length in {"q": 16, "k": 16, "v": 16, "pk": 8, "pv": 8, "y": 16}.items()
    }
    node = helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y"])
    graph = helper.make_graph([node], "past", [tensors[n] for n in ("q", "k", "v", "pk", "pv")], [tensors["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "past.onnx")
    with pytest.raises(GateError, match=r"cannot parse [\s\S]*past_key"):
        prove_compiled(tmp_path / "past.onnx", 1, [])


def test_a_prompt_that_was_folded_away_fails(tmp_path):
    with pytest.raises(GateError, match=r"4 prompt constants are not in the engine\n  found: blocks.0.attn.prompt_key"):
        prove_compiled(attention_graph(tmp_path / "m.onnx", repeat="Expand"), 2, NAMES)


def test_a_constant_with_a_longer_name_is_not_the_prompt(tmp_path):
    layers = (Layer("_gemm_mha_v2_0", ("block.prompt_key_scaled_constantHalf_myl0",)),)
    with pytest.raises(GateError, match="1 prompt constants"):
        audit(Build("c", b"", layers, 0, None), 1, ["block.prompt_key"])


def test_a_layer_table_without_constants_proves_nothing_about_prompts():
    built = Build("c", b"plan", (Layer("_gemm_mha_v2_0", None),), 0, None)
    assert audit(built, 1, ["block.prompt_key"])["prompt_constants"] is None


FUSED, SHAPES = Layer("_gemm_mha_v2_0", ()), {"clip": [[1], [2], [3]]}


@pytest.mark.parametrize(
    ("plan", "layers", "profiles", "deterministic"),
    [
        (b"plan", (FUSED,), None, True),
        (b"nalp", (FUSED,), SHAPES, False),
        (b"nalp", (FUSED,), None, None),
        (b"nalp", (FUSED, Layer("gemm", ())), SHAPES, None),
    ],
)
def test_a_second_build_is_the_same_to_the_byte_or_with_free_axes_to_the_layer(
    monkeypatch, plan, layers, profiles, deterministic
):
    built = [Build("c", b"plan", (FUSED,), 0, None), Build("c", plan, layers, 0, None)]
    monkeypatch.setattr("export.engine.gate.build", lambda *_, **__: built.pop(0))
    if deterministic is None:
        with pytest.raises(GateError, match=r"two builds of m\.onnx differ"):
            prove_compiled("m.onnx", 1, [], profiles=profiles)
        return
    assert prove_compiled("m.onnx", 1, [], profiles=profiles)["deterministic"] is deterministic


def test_progress_is_told_and_the_plan_is_the_same(tmp_path, monkeypatch, capsys):
    graph = attention_graph(tmp_path / "m.onnx")
    quiet = build("tensorrt-rtx", graph)
    assert capsys.readouterr().err == ""  # a build of less than two seconds says nothing
    monkeypatch.setattr(progress, "SECONDS", 0)
    assert build("tensorrt-rtx", graph).plan == quiet.plan
    assert re.search(r"^Building engine: \d of \d$", capsys.readouterr().err, re.MULTILINE)


INTERRUPTED = """
import builtins, os, signal, sys
from pathlib import Path
from export.engine import progress
from export.engine.compiler import build

signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background job inherit that it is ignored
progress.SECONDS = 0
builtins.print = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
try:
    build("tensorrt-rtx", Path(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(7 if signal.getsignal(signal.SIGINT) is signal.default_int_handler else 8)
"""


def test_an_interrupted_build_ends_in_an_interrupt(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(attention_graph(tmp_path / "m.onnx"))]
    assert subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[3]).returncode == 7


def test_layer_table_with_names_that_hold_brackets():
    log = (
        "Layers:\nName: a[0], LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1] }], Constants: [ { Name: c_myl0, "
        "Dimensions: [1,2] }, { Name: d, Dimensions: [] }], Outputs: [ { Name: y }], TacticName: t\n"
        "Name: b, LayerType: gemm, Inputs: [], Constants: [], Outputs: [], TacticName: t"
    )
    layers = parse_layer_table(log)
    assert [layer.name for layer in layers] == ["a[0]", "b"]
    assert layers[0].constants == ("c_myl0", "d")
    assert layers[1].constants == ()
