"""DeepStream: keys that its parsers know, values of the sidecar, and a graph that ends in the same probabilities."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, GateError
from apt_edge.video.preprocess import normalise, short_side_crop
from export.engine.gate import prove_compiled
from export.serving import deepstream
from export.serving.deepstream import add_softmax, to_deepstream
from export.trtexec.flags import check
from tests.export.bundle.models import make_model
from tests.export.serving.conftest import CLIPS

KEYS = json.loads((Path(__file__).parents[2] / "fixtures" / "deepstream" / "keys.json").read_text())
FILES = {
    "config_preprocess.txt": "nvdspreprocess",
    "config_infer_primary.txt": "nvinfer",
    "app_config.txt": "action-recognition",
}


def parse(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(text)
    return {group: dict(parser[group]) for group in parser.sections()}


def merged(folder: Path) -> dict[str, str]:
    """Keys of all files and groups."""
    groups = [group for name in FILES for group in parse((folder / name).read_text()).values()]
    return {key: text for group in groups for key, text in group.items()}


def unknown(element: str, groups: dict[str, dict[str, str]]) -> list[str]:
    """Keys and groups that an element does not know, and required ones that are missing."""
    known = {
        (group.replace("<n>", ""), key.replace("<n>", ""))
        for group, keys in KEYS[element]["groups"].items()
        for key in keys
    }
    written = {
        (re.sub(r"(?<=-)\d+$", "", group), re.sub(r"(?<=-)\d+$", "", key)) for group in groups for key in groups[group]
    }
    missing = set(KEYS[element]["required"]) - {key for _, key in written}
    return sorted(f"{group}/{key}" for group, key in written - known) + sorted(missing)


@pytest.fixture(scope="module")
def model(exported) -> Path:
    return exported("jetson-jp72", *CLIPS)


@pytest.fixture(scope="module")
def out(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deepstream") / "out"
    written = to_deepstream(model, folder, span=33)
    assert (written["streams"], written["max_abs"] <= 1e-6) == (4, True)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == written["files"]
    return folder


def test_every_key_is_documented(out):
    for name, element in FILES.items():
        text = (out / name).read_text()
        assert unknown(element, parse(text)) == []
        assert unknown(element, parse(text.replace("\n[", "\nnonsense=1\n[", 1) + "nonsense=1\n"))
    short = parse((out / "config_preprocess.txt").read_text().replace("scaling-filter", "#"))
    assert unknown("nvdspreprocess", short) == ["scaling-filter"]


def test_values_are_those_of_the_export(out, model):
    preprocess, infer, app = (parse((out / name).read_text()) for name in FILES)
    graph = onnx.load(out / "model.onnx").graph
    (clip,), (output,) = graph.input, graph.output
    entry = preprocess["property"]
    assert entry["tensor-name"] == clip.name
    assert (clip.type.tensor_type.elem_type, entry["tensor-data-type"]) == (onnx.TensorProto.FLOAT, "0")
    axes = [axis.dim_value for axis in clip.type.tensor_type.shape.dim]
    assert [int(size) for size in entry["network-input-shape"].split(";")] == [4, *axes[1:]]
    assert entry["processing-width"] == entry["processing-height"] == "32"
    assert infer["property"]["batch-size"] == "4"
    assert infer["property"]["strongly-typed"] == "1"
    assert infer["property"]["network-mode"] == "0"  # FP16 would set a flag that strongly typed networks refuse
    assert output.name == "probabilities"
    facts = json.loads((model / "model.json").read_text())
    assert (out / infer["property"]["labelfile-path"]).read_text() == ";".join(facts["labels"]) + "\n"
    assert (out / infer["property"]["onnx-file"]).is_file()
    assert infer["property"]["model-engine-file"] == "model.onnx_b4_gpu0_fp32.engine"
    assert preprocess["property"]["target-unique-ids"] == infer["property"]["gie-unique-id"]
    assert {app["action-recognition"]["preprocess-config"], app["action-recognition"]["infer-config"]} <= set(FILES)
    assert len(app["action-recognition"]["uri-list"].split(";")) == 4
    assert preprocess["group-0"]["src-ids"] == "0;1;2;3"


def test_pixels_become_what_training_saw(out):
    preprocess, _, app = (parse((out / name).read_text()) for name in FILES)
    given = {key: np.array(text.split(";"), float) for key, text in preprocess["user-configs"].items()}
    spec = ClipSpec(frames=4, size=32, sampling="segments")
    width, height = (int(app["action-recognition"][f"muxer-{side}"]) for side in ("width", "height"))
    left, top, *sides = (int(text) for text in preprocess["group-0"]["roi-params-src-3"].split(";"))
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[:, top : top + sides[1], left : left + sides[0]] = np.random.default_rng(0).integers(0, 256, 3, np.uint8)
    cropped = short_side_crop(frames, spec)
    assert (cropped[:, 1:-1, 1:-1] == cropped[:, 1:2, 1:2]).all()  # all of the region: only the edge sees beyond it
    assert (cropped[:, 0, 0] != cropped[:, 1, 1]).any()
    levels = cropped.astype(float)
    ours = (levels - given["channel-mean-offsets"]) * given["channel-scale-factors"]
    assert np.abs(ours.transpose(3, 0, 1, 2) - normalise(cropped, spec)).max() < 1e-5


def test_only_a_softmax_is_added(out, model):
    before, after = onnx.load(model / "model.onnx").graph, onnx.load(out / "model.onnx").graph
    *same, added = after.node
    assert same == list(before.node)
    assert list(after.initializer) == list(before.initializer)
    assert (added.op_type, list(added.input), list(added.output)) == ("Softmax", ["logits"], ["probabilities"])


def test_another_softmax_is_refused(model, tmp_path, monkeypatch):
    def wrong(source: Path, target: Path) -> None:
        add_softmax(source, target)
        graph = onnx.load(target)
        graph.graph.node[-1].op_type = "LogSoftmax"
        onnx.save(graph, target)

    monkeypatch.setattr(deepstream, "add_softmax", wrong)
    with pytest.raises(GateError, match="does not give the probabilities"):
        to_deepstream(model, tmp_path / "out", span=33)
    assert not (tmp_path / "out").exists()


def test_the_graph_with_softmax_compiles_with_fused_attention(out, model):
    facts = json.loads((model / "model.json").read_text())
    profiles = {name: port["profile"] for name, port in facts["inputs"].items()}
    report = prove_compiled(out / "model.onnx", facts["attention"], facts["prompts"], profiles=profiles)
    assert report["fused_attention"] == facts["attention"] == 2


def test_the_line_that_builds_the_engine_is_one_of_its_trtexec(out):
    text = (out / "README.txt").read_text()
    program, *line = shlex.split(next(row for row in text.splitlines() if "trtexec" in row))
    assert program == "trtexec"
    check("10.16", line)
    assert {"--onnx=model.onnx", "--saveEngine=model.onnx_b4_gpu0_fp32.engine", "--stronglyTyped"} <= set(line)
    assert "--maxShapes=clip:4x3x4x32x32" in line


CHANGES = [
    ("clip/mean", [0.5, 0.5, 0.5], {"channel-mean-offsets": "127.5;127.5;127.5"}),
    ("clip/std", [0.5, 0.25, 0.5], {"channel-scale-factors": "0.00784313725;0.0156862745;0.00784313725"}),
    ("clip/frames", 8, {"network-input-shape": "4;3;8;32;32", "stride": "4", "subsample": "3"}),
    ("target/version", "10.3", {}),
    (
        "inputs/clip/profile",
        [[1, 3, 4, 32, 32], [2, 3, 4, 32, 32], [2, 3, 4, 32, 32]],
        {"network-input-shape": "2;3;4;32;32", "batch-size": "2", "src-ids": "0;1"},
    ),
    (
        "inputs/clip/shape",
        [None, 3, 4, 64, 64],
        {"network-input-shape": "4;3;4;64;64", "processing-width": "64", "processing-height": "64"},
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), CHANGES, ids=lambda value: str(value)[:24])
def test_another_sidecar_gives_other_files(out, model, changed, tmp_path, monkeypatch, path, value, expected):
    monkeypatch.setattr(deepstream, "_prove", lambda *_: 0.0)  # the graph stays what it was
    to_deepstream(changed(model, path, value), tmp_path / "other", span=33)
    first, other = merged(out), merged(tmp_path / "other")
    assert expected.items() <= other.items()
    follows = {"model-engine-file", "uri-list", *(key for key in first if key.startswith("roi-params"))}
    assert {key for key in first if first[key] != other.get(key)} - follows == set(expected)


def test_labels_that_nvinfer_would_split_are_refused(model, changed, tmp_path):
    copy = changed(model, "labels", ["a;b", *"cdef"])
    with pytest.raises(ConfigError, match="nvinfer cannot read a label with ';'"):
        to_deepstream(copy, tmp_path / "out", span=33)


def test_frames_are_as_far_apart_as_in_training(model, changed, tmp_path):
    dense = changed(model, "clip/sampling", "dense")
    to_deepstream(dense, tmp_path / "dense")
    assert parse((tmp_path / "dense" / "config_preprocess.txt").read_text())["user-configs"]["subsample"] == "3"
    with pytest.raises(ConfigError, match="dense clips span 16 frames"):
        to_deepstream(dense, tmp_path / "dense", span=33)
    for span in (None, 3):
        with pytest.raises(ConfigError, match="say with --span"):
            to_deepstream(model, tmp_path / "out", span=span)


@pytest.mark.parametrize(
    ("page", "overrides", "bound", "settings"),
    [
        ("jetson-jp72", [], True, ["input=float32", "prompts.mode=folded", "batch.opt=4", "batch.max=4"]),
        ("jetson-jp72", ["batch.min=2", "batch.opt=2", "batch.max=4"], False, ["input=float32", "batch.min=1"]),
        ("jetson-jp5", [], False, ["input=float32", "precision=float32"]),
        ("onnxruntime-cpu", [], False, ["input=float32", "jetson-jp72.toml"]),
    ],
)
def test_an_export_that_does_not_fit_says_how_to_export(tmp_path, page, overrides, bound, settings):
    with pytest.raises(ConfigError) as error:
        to_deepstream(make_model(tmp_path / "m", page, bound, overrides), tmp_path / "out")
    assert all(setting in error.value.fix for setting in settings)
    assert not (tmp_path / "out").exists()


def test_the_settings_that_are_named_lead_to_an_export_that_fits(exported, tmp_path):
    with pytest.raises(ConfigError) as error:
        to_deepstream(exported("jetson-jp72", "gate=none", "prompts.mode=bound"), tmp_path / "out")
    settings = re.findall(r"--set (\S+)", error.value.fix)
    to_deepstream(exported("jetson-jp72", "gate=none", *settings), tmp_path / "out", span=33)
