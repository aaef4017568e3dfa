"""Triton: configurations that its own message reads, that agree with the graph, and that follow the sidecar."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from apt_edge.errors import AptEdgeError, ConfigError, ModelError
from apt_edge.files import sha256
from apt_edge.runtime.ort import OrtSession
from export.serving.triton import to_triton
from export.trtexec.flags import check
from tests.export.bundle.models import PROMPT, make_model
from tests.export.serving.conftest import BATCH, CLIPS, ROWS

TYPES = {
    onnx.TensorProto.UINT8: model_config_pb2.TYPE_UINT8,
    onnx.TensorProto.FLOAT16: model_config_pb2.TYPE_FP16,
    onnx.TensorProto.FLOAT: model_config_pb2.TYPE_FP32,
}
NUMPY = {model_config_pb2.TYPE_UINT8: np.uint8, model_config_pb2.TYPE_FP16: np.float16}
BOUND = (*CLIPS, "prompts.mode=bound")
EXPORTS = {
    ("onnxruntime-cpu",): 0,
    ("onnxruntime-cpu", *BATCH): 4,
    ("onnxruntime-cpu", *BATCH, "prompts.mode=bound"): 0,
    ("onnxruntime-cpu", *ROWS): 4,
    ("jetson-jp72", *CLIPS): 4,
    ("jetson-jp72", *BOUND): 0,
}


def read(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((path / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def shapes(config, ports) -> dict[str, tuple[int, list[int]]]:
    """Types and whole shapes, as Triton forms them."""
    batch = [-1] if config.max_batch_size else []
    return {port.name: (port.data_type, [*batch, *port.dims]) for port in ports}


@pytest.mark.parametrize(("request_", "most"), EXPORTS.items(), ids=lambda value: str(value).replace("batch.", ""))
def test_configurations_agree_with_the_graph(exported, tmp_path, request_, most):
    model = exported(*request_)
    facts = json.loads((model / "model.json").read_text())
    written = to_triton(model, tmp_path / "repository", "actions")
    engine = facts["target"]["runtime"] == "tensorrt"
    assert list(written["models"]) == ["actions", "actions_trt"][: 1 + engine]
    graph = onnx.load(model / "model.onnx").graph
    for name in written["models"]:
        folder = tmp_path / "repository" / name
        config = read(folder)
        assert (config.name, config.max_batch_size) == (name, most)
        assert config.HasField("dynamic_batching") == (most > 1)
        for given, ports in ((config.input, graph.input), (config.output, graph.output)):
            real = {
                port.name: (
                    TYPES[port.type.tensor_type.elem_type],
                    [-1 if axis.dim_param else axis.dim_value for axis in port.type.tensor_type.shape.dim],
                )
                for port in ports
            }
            assert shapes(config, given) == real
        (output,) = config.output
        assert (folder / output.label_filename).read_text().splitlines() == facts["labels"]
        assert config.parameters["apt_edge.onnx_sha256"].string_value == sha256(model / "model.onnx")
        assert json.loads(config.parameters["apt_edge.clip"].string_value) == facts["clip"]
        assert config.instance_group[0].kind == (2 if request_[0].endswith("cpu") else 1)
        assert (config.backend, config.platform) == (
            ("", "tensorrt_plan") if name.endswith("_trt") else ("onnxruntime", "")
        )
        assert (folder / "prompts.safetensors").is_file() == (len(config.input) > 1)
        assert (folder / "1").is_dir()
    assert sha256(tmp_path / "repository" / "actions" / "1" / "model.onnx") == facts["onnx_sha256"]


@pytest.mark.parametrize("request_", [key for key in EXPORTS if key[0] == "onnxruntime-cpu"], ids=str)
def test_the_graph_takes_what_a_configuration_lets_through(exported, tmp_path, request_):
    to_triton(exported(*request_), tmp_path, "actions")
    config = read(tmp_path / "actions")
    session = OrtSession(tmp_path / "actions" / "1" / "model.onnx", threads=1)
    for rows in (1, 3) if "batch.max=4" in request_ else (1,):
        sizes = [rows, 5, 5]  # free: the batch, the classes of a bias, the count of prompts and the classes of a weight
        feeds = {
            name: np.zeros(
                [sizes[axis] if size < 0 else size for axis, size in enumerate(shape)], NUMPY.get(kind, np.float32)
            )
            for name, (kind, shape) in shapes(config, config.input).items()
        }
        assert session.run(feeds)["logits"].shape == (rows, 5)


def test_engines_are_mapped_to_their_gpus(exported, tmp_path):
    model = exported("jetson-jp72", *CLIPS)
    for name in ("orin", "thor"):
        (tmp_path / name).write_bytes(name.encode())
    plans = {"8.7": tmp_path / "orin", "11.0": tmp_path / "thor"}
    written = to_triton(model, tmp_path / "repository", "actions", plans)["models"]["actions_trt"]
    folder = tmp_path / "repository" / "actions_trt"
    config = read(folder)
    assert written["plans"] == ["8.7", "11.0"]
    assert {cc: (folder / "1" / name).read_bytes() for cc, name in config.cc_model_filenames.items()} == {
        "8.7": b"orin",
        "11.0": b"thor",
    }
    assert "trtexec" not in (folder / "config.pbtxt").read_text()
    assert not (folder / "1" / "model.plan").exists()  # a GPU of another capability finds nothing it could mistake


def test_without_an_engine_the_configuration_says_how_to_build_one(exported, tmp_path):
    to_triton(exported("jetson-jp72", *CLIPS), tmp_path, "actions")
    text = (tmp_path / "actions_trt" / "config.pbtxt").read_text()
    program, *line = shlex.split(next(row for row in text.splitlines() if "trtexec" in row).strip("# "))
    assert program == "trtexec"
    check("10.16", line)
    assert {"--saveEngine=model.plan", "--stronglyTyped", "--minShapes=clip:1x3x4x32x32"} <= set(line)
    onnx_file = next(word for word in line if word.startswith("--onnx=")).removeprefix("--onnx=")
    assert (tmp_path / "actions_trt" / "1" / onnx_file).is_file()
    assert list((tmp_path / "actions_trt" / "1").iterdir()) == []


def test_the_engine_of_export_to_engine_is_taken(changed, tmp_path):
    model = make_model(tmp_path / "m", "datacenter")
    (model / "model.engine").write_bytes(b"plan")
    entry = {"plan_sha256": sha256(model / "model.engine"), "key": {"compute_capability": ["9.0"]}}
    for compiler, plans in (("tensorrt 11.4.0", ["9.0"]), ("tensorrt-rtx 1.7", [])):
        entry["key"]["compiler"] = compiler
        built = changed(model, "engine", entry).rename(tmp_path / compiler)
        assert to_triton(built, tmp_path / "repository")["models"]["datacenter_trt"]["plans"] == plans
    (tmp_path / "tensorrt 11.4.0" / "model.engine").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"is not the engine that model\.json describes"):
        to_triton(tmp_path / "tensorrt 11.4.0", tmp_path / "repository")


def fields(config) -> dict:
    """The configuration as a flat dict."""
    ports = {port.name: (port.data_type, list(port.dims)) for port in [*config.input, *config.output]}
    told = {key: value.string_value for key, value in config.parameters.items()}
    return {"name": config.name, "most": config.max_batch_size, **ports, **told}


SHAPE = [None, 4, 32, 32, 3]
CHANGES = [
    ("target/name", "other", {"name": "other_trt"}),
    ("inputs/clip/profile", [[1, 4, 32, 32, 3], [2, 4, 32, 32, 3], [6, 4, 32, 32, 3]], {"most": 6}),
    ("inputs/clip/shape", [*SHAPE[:2], 64, 64, 3], {"clip": (2, [4, 64, 64, 3])}),
    ("inputs/clip/dtype", "float32", {"clip": (11, [4, 32, 32, 3])}),
    ("inputs/clip/dtype", "bfloat16", {"clip": (14, [4, 32, 32, 3])}),
    ("outputs/logits/shape", [None, 7], {"logits": (11, [7])}),
    ("outputs/logits/dtype", "float16", {"logits": (10, [5])}),
    ("clip/stride", 2, {"apt_edge.clip": ...}),
    (f"inputs/{PROMPT}", {"dtype": "float16", "shape": [None, 2, 3], "profile": None}, {PROMPT: (10, [2, 3])}),
    (f"inputs/{PROMPT}", {"dtype": "float16", "shape": [1, None, 3], "profile": None}, {"most": 0, "clip": ...}),
]


@pytest.mark.parametrize(("path", "value", "expected"), CHANGES, ids=lambda value: str(value)[:24])
def test_another_sidecar_gives_another_configuration(changed, tmp_path, path, value, expected):
    first = make_model(tmp_path / "m", "jetson-jp72", overrides=list(BATCH))
    facts = json.loads((first / "model.json").read_text())
    facts["outputs"]["logits"]["shape"] = [None, 5]
    (first / "model.json").write_text(json.dumps(facts))
    second = changed(first, path, value)
    for model, repository in ((first, "one"), (second, "two")):
        to_triton(model, tmp_path / repository)
    (one,) = (fields(read(folder)) for folder in (tmp_path / "one").glob("*_trt"))
    (two,) = (fields(read(folder)) for folder in (tmp_path / "two").glob("*_trt"))
    differing = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
    assert set(expected) <= differing
    assert differing <= {*expected, PROMPT, "logits"} if PROMPT in path else differing == set(expected)
    assert {key: two[key] for key, want in expected.items() if want is not ...} == {
        key: want for key, want in expected.items() if want is not ...
    }


def test_other_labels_give_another_file(changed, tmp_path):
    model = changed(make_model(tmp_path / "m", "onnxruntime-cpu"), "labels", ["a", "b c", "ü", "d", "e"])
    to_triton(model, tmp_path / "r", "x")
    assert (tmp_path / "r" / "x" / "labels.txt").read_text(encoding="utf-8") == "a\nb c\nü\nd\ne\n"


def test_what_cannot_be_served_is_an_instruction(changed, tmp_path):
    model = make_model(tmp_path / "m", "onnxruntime-cpu")
    crowd = make_model(tmp_path / "b", "jetson-jp72", overrides=["batch.min=2", "batch.opt=2", "batch.max=4"])
    half = changed(model, "precision", "bfloat16")
    for wrong, message in (
        ((crowd, tmp_path / "r"), r"--set batch\.min=1"),
        ((model, tmp_path / "r", "../x"), "cannot be a model's name"),
        ((model, tmp_path / "r", None, {"8.7": model / "model.onnx"}), "is not TensorRT's"),
        ((crowd, tmp_path / "r", None, {"sm87": model / "model.onnx"}), "compute capability and the file"),
        ((crowd, tmp_path / "r", None, {"8.7": tmp_path / "none"}), "no such file"),
        ((half, tmp_path / "r"), "has no bfloat16"),
        ((changed(model, "labels", ["a\nb"] * 5), tmp_path / "r"), "cannot read a label"),
    ):
        with pytest.raises(ConfigError, match=message):
            to_triton(*wrong)
    assert not (tmp_path / "r").exists()


def test_models_share_a_repository_and_nothing_else_is_replaced(tmp_path):
    model, repository = make_model(tmp_path / "m", "onnxruntime-cpu"), tmp_path / "r"
    for name in ("one", "two", "one"):
        to_triton(model, repository, name)
    assert sorted(path.name for path in repository.iterdir()) == ["one", "two"]
    (repository / "mine").mkdir()
    (repository / "mine" / "file").touch()
    with pytest.raises(AptEdgeError, match=r"has no config\.pbtxt, so it is not replaced"):
        to_triton(model, repository, "mine")
