"""The lines of a model in every version of trtexec: accepted, with one meaning, and with outputs that can be read."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from apt_edge.errors import ConfigError, GateError
from apt_edge.runtime.engine import check_layers
from apt_edge.runtime.statistics import summarise
from apt_edge.runtime.trtexec import parse_log, read_layers, read_outputs, read_times
from export.target import load_target
from export.trtexec import lines
from export.trtexec.flags import FLAGS, VERSIONS, accepts, check, works
from export.trtexec.lines import build_line, measure_line, selftest_line
from tests.export.trtexec import fake

TARGETS = sorted(
    path for path in (Path(__file__).parents[3] / "export" / "targets").glob("*.toml") if load_target(path).version
)
CLIP = (4, 8, 8, 3)
CLASSES = 5


def facts(version: str, batch: int = 1, bound: bool = False, precision: str = "float16") -> dict:
    """A sidecar; `batch` above 1 is a profile from 1 to it."""
    target = {"name": "test", "runtime": "tensorrt", "version": version, "precision": precision}
    profile = [[size, *CLIP] for size in (1, 2, batch)] if batch > 1 else None
    inputs = {"clip": {"dtype": "uint8", "shape": [None if profile else 1, *CLIP], "profile": profile}}
    if bound:
        inputs["blocks.0.key"] = {
            "dtype": "float32",
            "shape": [1, None, CLASSES],
            "profile": [[1, size, CLASSES] for size in (1, 3, 6)],
        }
    return {"target": target, "precision": precision, "attention": 2, "inputs": inputs}


def write_graph(path: Path, model: dict) -> Path:
    """Two softmaxes between matrix products, and a sum over the prompts when they are inputs."""
    shapes = {name: [size or f"{name}_{i}" for i, size in enumerate(e["shape"])] for name, e in model["inputs"].items()}
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(n, types[model["inputs"][n]["dtype"]], s) for n, s in shapes.items()]
    weight = np.random.default_rng(0).normal(size=(int(np.prod(CLIP)), CLASSES)).astype(np.float32) / 1e4
    nodes = [
        helper.make_node("Cast", ["clip"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "weight"], ["a"], name="product"),
        helper.make_node("Softmax", ["a"], ["b"], name="/blocks.0/softmax"),
        helper.make_node("Softmax", ["b"], ["c"], name="/blocks.1/softmax"),
    ]
    if "blocks.0.key" in model["inputs"]:
        nodes.append(helper.make_node("ReduceSum", ["blocks.0.key"], ["k"], name="sum", keepdims=0))
        nodes.append(helper.make_node("Add", ["c", "k"], ["logits"], name="add"))
    else:
        nodes.append(helper.make_node("Identity", ["c"], ["logits"], name="identity"))
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shapes["clip"][0], CLASSES])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


SOFTMAXES = ["/blocks.0/softmax", "/blocks.1/softmax"]


@pytest.fixture
def trtexec(tmp_path, monkeypatch, capsys):
    """Run a line in the model's directory with the fake trtexec of a version: exit code and log."""
    monkeypatch.chdir(tmp_path)

    def call(version: str, line: list[str], behaviour: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", line)
        capsys.readouterr()
        try:
            fake.main(version, behaviour)
        except SystemExit as end:
            return int(end.code), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return call


def test_the_table_of_flags_is_what_the_sources_say():
    for version in VERSIONS:
        table = fake.table(version)
        working, without_effect = set(table["accepts"]), set(table["accepts_without_effect"])
        assert {flag for flag in FLAGS if works(version, flag)} == working, version
        assert {flag for flag in FLAGS if accepts(version, flag)} == working | without_effect, version


def test_versions_between_and_outside_the_table():
    assert accepts("10.11", "--stronglyTyped")
    assert not accepts("10.11", "--markUnfusedTensorsAsDebugTensors")
    assert accepts("10.3.0", "--fp16")
    assert accepts("9.2", "--buildOnly")
    assert not accepts("11.4", "--no-such-flag")
    for version in ("8.4", "12.0", "11", "ten", ""):
        with pytest.raises(ConfigError, match="not known"):
            accepts(version, "--onnx")


def every_line(version: str) -> list[list[str]]:
    model = facts(version, batch=4)
    inputs = {"clip": ("clip.bin", (1, *CLIP))}
    return [
        build_line(model, SOFTMAXES),
        measure_line(model),
        measure_line(model, transfers=True),
        selftest_line(model, inputs),
    ]


def refused(version: str, line: list[str]) -> bool:
    try:
        fake.parse(version, line[1:])
    except fake.Failure:
        return True
    return False


def test_lines_of_every_version_in_every_version():
    majors = set()
    for written in VERSIONS:
        for line in every_line(written):
            for version in VERSIONS:
                if refused(version, line):
                    majors.add((written.split(".")[0], version.split(".")[0]))
                    assert version != written
                    with pytest.raises(ConfigError, match="it lacks --"):
                        check(version, line[1:])
                else:
                    check(version, line[1:])
    assert majors == {("8", "8"), ("8", "10"), ("8", "11"), ("10", "8"), ("11", "8"), ("11", "10")}


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("11.0", "trtexec --onnx=model.onnx --fp16"),
        ("11.4", "trtexec --onnx=model.onnx --layerPrecisions=a:fp32"),
        ("10.16", "trtexec --loadEngine=model.engine --includeDataTransfers"),
        ("10.3", "trtexec --onnx=model.onnx --buildOnly"),
        ("8.5", "trtexec --onnx=model.onnx --skipInference"),
        ("8.6", "trtexec --onnx=model.onnx --stronglyTyped"),
    ],
)
def test_flags_of_another_version_are_refused(trtexec, version, line):
    code, log = trtexec(version, line.split())
    flag = line.split()[-1].split("=")[0]
    assert code == 1
    assert parse_log(log).outcome == "failed"
    assert parse_log(log).errors[0].startswith(f"Unknown option: {flag} ")
    with pytest.raises(ConfigError, match=f"it lacks {flag}"):
        check(version, line.split()[1:])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("batch", "bound"), [(1, False), (4, False), (1, True)])
def test_build_selftest_and_measurements(trtexec, tmp_path, version, batch, bound):
    model = facts(version, batch, bound)
    graph = write_graph(tmp_path / "model.onnx", model)
    code, log = trtexec(version, build_line(model, SOFTMAXES))
    assert code == 0, log
    assert (tmp_path / "timing.cache").exists()
    report = check_layers(read_layers(tmp_path / "layers.json"), model)
    assert report["precision"]["float16"] >= 8
    old = version in ("8.5", "8.6", "10.3")
    assert (report["fused_attention"] < 2, len(report["warnings"])) == (old, int(old))

    rows = 3 if batch > 1 else 1
    random = np.random.default_rng(1)
    feeds = {"clip": random.integers(0, 255, (rows, *CLIP), np.uint8)}
    if bound:
        feeds["blocks.0.key"] = random.normal(size=(1, 4, CLASSES)).astype(np.float32)
    for name, array in feeds.items():
        array.tofile(tmp_path / f"{name}.bin")
    files = {name: (f"{name}.bin", array.shape) for name, array in feeds.items()}
    code, log = trtexec(version, selftest_line(model, files))
    assert code == 0, log
    assert "Iterations: 1\n" in log
    assert "CUDA Graph: Disabled" in log
    expected = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    np.testing.assert_allclose(read_outputs(tmp_path / "output.json")["logits"], expected, rtol=1e-5)

    for transfers, file in ((False, lines.TIMES), (True, lines.TIMES_WITH_TRANSFERS)):
        code, log = trtexec(version, measure_line(model, transfers))
        assert code == 0, log
        assert_times_agree(log, tmp_path / file, transfers)


def assert_times_agree(log: str, path: Path, transfers: bool) -> None:
    parsed, times = parse_log(log), read_times(path)
    assert (parsed.outcome, len(times["latency"])) == ("passed", fake.RUNS)
    assert (times["h2d"].max() > 0) == transfers
    for name, values in times.items():
        numbers = summarise(values, lines.PERCENTILES)
        found = {key: number for key, number in numbers.items() if key not in ("cv", "n")}
        assert set(found) == {"min", "max", "mean", "median", "p50", "p90", "p95", "p99"}
        assert numbers["n"] == fake.RUNS
        assert found == pytest.approx(parsed.metrics[name], rel=1e-5), name  # six digits are printed
    assert parsed.unstable == pytest.approx(summarise(times["compute"])["cv"], rel=1e-4)


def test_every_version_measures_the_same_way(trtexec, tmp_path):
    write_graph(tmp_path / "model.onnx", facts("10.3"))
    seen = {False: set(), True: set()}
    for version in VERSIONS:
        assert trtexec(version, build_line(facts(version), SOFTMAXES))[0] == 0
        for transfers, modes in seen.items():
            log = trtexec(version, measure_line(facts(version), transfers))[1]
            modes.add(log[log.index("=== Inference Options") : log.index("=== Performance")])
    for transfers, modes in seen.items():
        assert len(modes) == 1, modes
        (text,) = modes
        for part in ("30s (+ 500ms warm up)", "Spin-wait: Enabled", "CUDA Graph: Enabled", "Percentile: 50,90,95,99"):
            assert part in text
        assert f"Data transfers: {'Enabled' if transfers else 'Disabled'}" in text


def test_the_same_line_would_not(trtexec, tmp_path):
    """The control: the defaults of 10.16 and 11.0 do differ."""
    write_graph(tmp_path / "model.onnx", facts("10.16"))
    assert trtexec("10.16", build_line(facts("10.16")))[0] == 0
    line = ["trtexec", "--loadEngine=model.engine"]
    assert "CUDA Graph: Disabled" in trtexec("10.16", line)[1]
    assert "CUDA Graph: Enabled" in trtexec("11.0", line)[1]


@pytest.mark.parametrize("version", ["8.5", "10.13"])
def test_a_build_that_is_float32_after_all_is_found(trtexec, tmp_path, version):
    model = facts(version)
    write_graph(tmp_path / "model.onnx", model)
    forgotten = [flag for flag in build_line(model, SOFTMAXES) if flag not in ("--fp16", "--stronglyTyped")]
    for line, behaviour in ((forgotten, ""), (build_line(model, SOFTMAXES), "float32")):
        assert trtexec(version, line, behaviour)[0] == 0
        with pytest.raises(GateError, match="float16 was asked for"):
            check_layers(read_layers(tmp_path / "layers.json"), model)


def test_an_unfused_attention_is_found(trtexec, tmp_path):
    write_graph(tmp_path / "model.onnx", facts("11.4"))
    assert trtexec("11.4", build_line(facts("11.4")), "unfused")[0] == 0
    with pytest.raises(GateError, match="1 of 2 attentions are fused"):
        check_layers(read_layers(tmp_path / "layers.json"), facts("11.4"))


def test_outputs_that_are_not_finite_are_read(trtexec, tmp_path):
    model = facts("10.3")
    write_graph(tmp_path / "model.onnx", model)
    np.zeros(CLIP, np.uint8).tofile(tmp_path / "clip.bin")
    assert trtexec("10.3", build_line(model))[0] == 0
    assert trtexec("10.3", selftest_line(model, {"clip": ("clip.bin", (1, *CLIP))}), "nan")[0] == 0
    assert np.isnan(read_outputs(tmp_path / "output.json")["logits"]).all()


def test_the_installed_fake_runs(tmp_path):
    program = fake.install(tmp_path / "bin", "10.13")
    write_graph(tmp_path / "model.onnx", facts("10.13"))
    done = subprocess.run(
        [program, *build_line(facts("10.13"))[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert parse_log(done.stdout).version == "10.13.3"


def test_float32_nodes_of_8():
    line = build_line(facts("8.5"), SOFTMAXES)
    assert "--layerPrecisions=/blocks.0/softmax:fp32,/blocks.1/softmax:fp32" in line
    assert "--layerOutputTypes=/blocks.0/softmax:fp32,/blocks.1/softmax:fp32" in line
    assert "--precisionConstraints=obey" in line
    assert not {"--fp16", "--stronglyTyped"} & set(build_line(facts("8.6", precision="float32")))
    for precision, nodes in (("float16", []), ("bfloat16", SOFTMAXES)):
        with pytest.raises(ConfigError, match="LayerNorm and Softmax"):
            build_line(facts("8.5", precision=precision), nodes)


def test_profiles_and_their_usual_shape():
    model = facts("10.3", batch=8, bound=True)
    assert {
        "--minShapes=clip:1x4x8x8x3,blocks.0.key:1x1x5",
        "--optShapes=clip:2x4x8x8x3,blocks.0.key:1x3x5",
        "--maxShapes=clip:8x4x8x8x3,blocks.0.key:1x6x5",
    } <= set(build_line(model))
    assert "--shapes=clip:2x4x8x8x3,blocks.0.key:1x3x5" in measure_line(model)
    assert not any("hapes" in flag for flag in build_line(facts("10.3")) + measure_line(facts("10.3")))


def test_what_has_no_line():
    with pytest.raises(ConfigError, match="not built with trtexec"):
        build_line({"target": {"name": "openvino-cpu", "runtime": "openvino", "version": ""}})
    with pytest.raises(ConfigError, match=r"(?s)every input.*give clip, blocks\.0\.key"):
        selftest_line(facts("10.3", bound=True), {"clip": ("clip.bin", (1, *CLIP))})
    for name in ("a,b.bin", "c:/clip.bin", "it's.bin"):
        with pytest.raises(ConfigError, match="cannot be given"):
            selftest_line(facts("10.3"), {"clip": (name, (1, *CLIP))})


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_pages_show_their_lines(path):
    target = load_target(path)
    model = {
        "target": json.loads(target.model_dump_json()),
        "inputs": {"clip": {"dtype": "uint8", "shape": [1, 16, 224, 224, 3], "profile": None}},
    }
    head = path.read_text().split("\nname = ")[0].replace(" \\\n#", "")
    shown = [shlex.split(line[1:]) for line in head.splitlines() if line.startswith("#   trtexec ")]
    assert shown == [build_line(model, ["NODE"]), measure_line(model), measure_line(model, transfers=True)]


def test_every_tensorrt_page_is_looked_at():
    assert [path.stem for path in TARGETS] == [
        "datacenter",
        "jetson-jp5",
        "jetson-jp6-orin",
        "jetson-jp7-thor",
        "jetson-jp72",
    ]
