"""Reading what trtexec wrote: logs, times, layers and outputs of 8.5 to 11, whole, truncated and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import GateError, ModelError
from apt_edge.runtime.engine import check_layers
from apt_edge.runtime.statistics import percentile, summarise
from apt_edge.runtime.trtexec import (
    FUSED,
    parse_log,
    parse_version,
    read_layers,
    read_outputs,
    read_times,
)

SAMPLES = Path(__file__).parents[1] / "fixtures" / "trtexec"


def facts(version: str, precision: str = "float16", attention: int = 2, graph: str | None = None) -> dict:
    target = {"runtime": "tensorrt", "version": version, "precision": precision}
    return {"target": target, "precision": graph or precision, "attention": attention}


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("written", "version"),
    [("v8502", "8.5.2"), ("v8601", "8.6.1"), ("v8610", "8.6.10"), ("v9300", "9.3.0")]
    + [("v100001", "10.0.1"), ("v100300", "10.3.0"), ("v101303] [b9", "10.13.3"), ("v110401", "11.4.1")],
)
def test_versions_in_both_numberings(written, version):
    assert parse_version(f"&&&& RUNNING TensorRT.trtexec [TensorRT {written}] # trtexec") == version


def test_a_log_of_8():
    log = parse_log((SAMPLES / "log-8.5.txt").read_text())
    assert (log.version, log.outcome, log.errors) == ("8.5.2", "passed", ())
    assert (log.throughput, log.walltime_s, log.compute_s) == (41.0625, 30.05, 29.75)
    assert sorted(log.metrics) == ["compute", "d2h", "end_to_end", "enqueue", "h2d", "latency"]
    expected = {"min": 24.0128, "max": 31.5, "mean": 24.3021, "median": 24.2507, "p50": 24.25, "p99.9": 31.25}
    assert log.metrics["latency"] == expected
    assert log.metrics["d2h"]["max"] == 0.0095
    assert log.bound_by == ("enqueue",)
    assert log.unstable is None


def test_a_log_of_10_with_warnings():
    log = parse_log((SAMPLES / "log-10.13.txt").read_text())
    assert (log.version, log.outcome) == ("10.13.3", "passed")
    assert log.metrics["compute"]["p99"] == 4.32874
    assert log.metrics["h2d"]["median"] == 0
    assert sorted(log.metrics) == ["compute", "d2h", "enqueue", "h2d", "latency"]
    assert log.unstable == pytest.approx(0.041)
    assert log.bound_by == ("h2d", "d2h")


def test_a_failed_and_a_truncated_log():
    refused = parse_log((SAMPLES / "log-11.0-refused.txt").read_text())
    assert (refused.version, refused.outcome, refused.throughput, refused.metrics) == ("11.0.0", "failed", None, {})
    assert refused.errors == ("Unknown option: --fp16 ",)
    whole = (SAMPLES / "log-10.13.txt").read_text()
    cut = parse_log(whole[: whole.index("4.29966")])
    assert (cut.outcome, cut.throughput) == ("incomplete", 234.19)
    assert cut.metrics == {"latency": {"min": 4.27838, "max": 5.82495}}
    assert parse_log("").outcome == "incomplete"


@pytest.mark.parametrize("unit", ["", " bytes"])  # 8 and 9; 10 and 11
def test_a_log_of_a_build_tells_the_activations(unit):
    line = f"[07/14/2025-11:55:10] [I] [TRT] Total Activation Memory: 22118400{unit}\n"
    assert parse_log(line).activation_bytes == 22118400
    assert parse_log(line[:-2] if unit else line.replace("Activation", "Weights")).activation_bytes is None
    assert parse_log((SAMPLES / "log-10.13.txt").read_text()).activation_bytes is None


@pytest.mark.parametrize("runs", [1, 10, 15, 100, 200, 317])
def test_times_have_trtexecs_percentiles(tmp_path, runs):
    values = np.random.default_rng(runs).gamma(2.0, size=runs).round(4)
    rows = [{"latencyMs": v + 1, "computeMs": v, "h2dMs": 0.75, "d2hMs": 0.25, "startEnqMs": 0.5} for v in values]
    times = read_times(write(tmp_path / "t.json", rows))
    assert sorted(times) == ["compute", "d2h", "h2d", "latency"]
    np.testing.assert_array_equal(times["compute"], values)
    numbers = summarise(times["compute"], (50, 90, 99.9))
    assert numbers["p99.9"] == percentile(values, 99.9)
    assert numbers["p90"] == percentile(values, 90)
    assert (numbers["min"], numbers["max"], numbers["n"]) == (values.min(), values.max(), runs)
    assert summarise(times["h2d"])["cv"] == 0
    assert summarise(np.zeros(runs))["cv"] == 0


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', "[1]", '[{"latencyMs": 1}]', "[]"])
def test_damaged_times(tmp_path, content):
    with pytest.raises(ModelError, match=r"t\.json"):
        read_times(write(tmp_path / "t.json", content))
    with pytest.raises(ModelError, match="missing"):
        read_times(tmp_path / "none.json")


def test_names_of_layers_alone():
    layers = read_layers(SAMPLES / "layers-8.5-names.json")
    assert [layer.reformat for layer in layers] == [True, False, False, False]
    assert not any(layer.detailed or layer.precision for layer in layers)
    with pytest.raises(GateError, match=r"(?s)not known.*--profilingVerbosity=detailed"):
        check_layers(layers, facts("8.5", graph="float32"))


def test_one_region_of_8_is_a_warning():
    layers = read_layers(SAMPLES / "layers-8.5-region.json")
    report = check_layers(layers, facts("8.5", graph="float32"))
    assert (report["fused_attention"], report["attention"], report["reformats"]) == (0, 2, 1)
    assert report["precision"] == {"unknown": 1}
    assert ["not proven" in report["warnings"][0], "0 of 2" in report["warnings"][1]] == [True, True]


def test_layers_of_10_3():
    layers = read_layers(SAMPLES / "layers-10.3.json")
    assert [layer.precision for layer in layers] == [*["float16"] * 4, "", "float32", "float32"]
    assert [layer.compute for layer in layers] == [False, True, True, True, True, False, True]
    assert [layer.name for layer in layers if layer.fused_attention] == ["_gemm_mha_v2_myl0_2"]
    report = check_layers(layers, facts("10.3"))
    assert report["precision"] == {"float16": 3, "unknown": 1, "float32": 1}
    assert (report["layers"], report["compute_layers"], report["fused_attention"]) == (7, 5, 1)
    assert "1 of 2 attentions are fused" in report["warnings"][0]
    assert check_layers(layers, facts("10.3", attention=1))["warnings"] == []
    with pytest.raises(GateError, match="1 of 2 attentions are fused"):
        check_layers(layers, facts("10.13"))


def test_layers_of_11():
    layers = read_layers(SAMPLES / "layers-11.1.json")
    assert [layer.precision for layer in layers] == ["bool", "bfloat16", "bfloat16", "bfloat16", "float32"]
    report = check_layers(layers, facts("11.1", "float16", graph="bfloat16"))
    assert (report["fused_attention"], report["reformats"], report["warnings"]) == (2, 1, [])


@pytest.mark.parametrize(
    ("datatype", "precision"),
    [("Row major linear FP16 format", "float16"), ("Half", "float16"), ("Float", "float32"), ("BFloat16", "bfloat16")]
    + [("UINT8", "uint8"), ("Row major linear INT8", "int8"), ("INT64", "int64"), ("N/A", "")],
)
def test_types(tmp_path, datatype, precision):
    entry = {"Name": "a", "Outputs": [{"Name": "b", "Format/Datatype": datatype}]}
    assert read_layers(write(tmp_path / "l.json", [entry]))[0].precision == precision


def gemms(path: Path, types: dict[str, int], fused: int) -> Path:
    names = [f"gemm_{kind}_{i}" for kind, count in types.items() for i in range(count)]
    layers = [{"Name": n, "Outputs": [{"Name": "o", "Format/Datatype": n.split("_")[1]}]} for n in names]
    return write(path, {"Layers": layers + [{"Name": f"_gemm_mha_v2_{i}"} for i in range(fused)]})


def test_half_that_became_float32_fails(tmp_path):
    layers = read_layers(gemms(tmp_path / "l.json", {"FP32": 5, "FP16": 4}, fused=2))
    with pytest.raises(GateError, match=r"(?s)float16 was asked for.*5 of 9.*build\.sh") as caught:
        check_layers(layers, facts("10.16"))
    assert caught.value.exit_code == 4
    with pytest.raises(GateError, match="bfloat16 was asked for"):
        check_layers(layers, facts("11.0", graph="bfloat16"))
    with pytest.raises(GateError, match="fast half precision"):
        check_layers(layers, facts("8.5", graph="float32"))
    assert check_layers(layers, facts("10.16", "float32"))["precision"]["float32"] == 5


@pytest.mark.parametrize("version", ["8.5", "10.3", "10.16"])
@pytest.mark.parametrize(
    ("types", "planned", "passes"),
    [
        ({"FP32": 24, "FP16": 24}, 0, False),  # half of a model in float32 is no half precision
        ({"FP32": 12, "FP16": 36}, 0, True),
        ({"FP32": 13, "FP16": 35}, 0, False),
        ({"FP32": 13, "FP16": 35}, 13, True),  # what the graph itself keeps in float32
        ({"FP32": 14, "FP16": 34}, 13, False),
        ({"INT8": 47, "FP16": 1}, 0, True),
        ({"INT8": 24, "FP32": 24}, 0, False),
        ({"BF16": 1, "FP16": 47}, 0, False),
    ],
)
def test_how_much_of_a_float16_engine_may_be_something_else(tmp_path, version, types, planned, passes):
    layers = read_layers(gemms(tmp_path / "l.json", types, fused=2))
    nodes = [f"blocks.{i}.fc2/MatMul" for i in range(planned)] + [f"blocks.{i}/Add" for i in range(40)]
    asked = facts(version, graph="float32" if version == "8.5" else None) | {"float32_nodes": nodes}
    if passes:
        assert check_layers(layers, asked)["warnings"] == []
    else:
        with pytest.raises(GateError, match="float16 was asked for"):
            check_layers(layers, asked)


def test_types_that_are_not_told_are_no_proof_after_10_3(tmp_path):
    layers = read_layers(gemms(tmp_path / "l.json", {"N/A": 6, "FP16": 3}, fused=2))
    assert "3 of 11 compute layers" in check_layers(layers, facts("10.3"))["warnings"][0]
    with pytest.raises(GateError, match="float16 is not proven"):
        check_layers(layers, facts("10.4"))


def test_fused_names():
    for name in ("_gemm_mha_v2_myl0_1", "sm80_fmha_v2", "kgen_mha", "MHA_1", "fMHA"):
        assert FUSED.search(name), name
    for name in ("/blocks.0/attn/MatMul", "alphamha", "gemm_softmax"):
        assert not FUSED.search(name), name


@pytest.mark.parametrize("content", ["{}", '{"Layers": 3}', "[3]", '[{"LayerType": "x"}]', "not json"])
def test_damaged_layers(tmp_path, content):
    with pytest.raises(ModelError, match=r"l\.json is not what trtexec writes"):
        read_layers(write(tmp_path / "l.json", content))


def test_outputs_with_numbers_that_json_does_not_know(tmp_path):
    text = (
        '[\n  { "name" : "logits"\n, "dimensions" : "2x3"\n, "values" : [ 1.5, nan, -nan, inf, -inf, 2e-05 ]\n  }\n]\n'
    )
    outputs = read_outputs(write(tmp_path / "o.json", text))
    assert list(outputs) == ["logits"]
    assert outputs["logits"].dtype == np.float32
    np.testing.assert_array_equal(
        outputs["logits"], np.array([[1.5, np.nan, np.nan], [np.inf, -np.inf, 2e-5]], np.float32)
    )


@pytest.mark.parametrize(
    "content", ["{}x", '[{"name": "a"}]', '[{"name": "a", "dimensions": "2x3", "values": [1, 2]}]', "[1]"]
)
def test_damaged_outputs(tmp_path, content):
    with pytest.raises(ModelError, match=r"o\.json"):
        read_outputs(write(tmp_path / "o.json", content))
