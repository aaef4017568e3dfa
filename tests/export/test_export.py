"""Export: parity on every target, prompts bit for bit, folded and bound alike, and gates that can fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.vit import ExtraKV
from apt_edge.errors import ConfigError, GateError, ModelError
from apt_edge.methods.vpt_deep import VptDeepTokens
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.ort import OrtSession
from export.proof.parity import torch_logits
from tests.conftest import TINY_CLIP, tiny_model, tiny_pack
from tests.export.exporting import LABELS, PAGES, export, logits, target, tiny_export

METHODS = [
    ("apt", {"tokens": 8}),
    ("apt", {"tokens": 3, "start": 1}),
    ("vpt-deep", {"tokens": 4}),
    ("linear", {}),
]
TARGETS = sorted(path.stem for path in PAGES.glob("*.toml"))


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_float32_graph_equals_torch(tiny_vit, tiny_frames, tmp_path, method, settings):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", method, **settings)
    assert sidecar["parity"]["max_abs"] < 1e-4
    assert sidecar["parity"]["max_logit"] > 0.1
    assert sidecar["attention"] == 2


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_exports_what_its_page_says(tiny_vit, tiny_frames, tmp_path, name):
    chosen = target(name)
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8)
    graph = onnx.load(tmp_path / "m" / "model.onnx")
    assert b".py" not in graph.SerializeToString()  # no path of the code that was traced
    assert {"": chosen.opset}.items() <= {entry.domain: entry.version for entry in graph.opset_import}.items()
    assert {node.op_type for node in graph.graph.node} == {name.split(".")[-1] for name in sidecar["ops"]}
    assert sidecar["inputs"]["clip"] == {"dtype": "uint8", "shape": [1, 4, 32, 32, 3], "profile": None}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert all(stored[prompt].shape == (1, 1, 8, 32) for prompt in sidecar["prompts"])  # shared by the heads
    half = chosen.precision == "float16" and chosen.strongly_typed
    assert all(stored[prompt].dtype == (np.float16 if half else np.float32) for prompt in sidecar["prompts"])
    if chosen.gate != "none":
        gate = sidecar["gate"]
        assert (gate["fused_attention"], gate["prompt_constants"], gate["deterministic"]) == (2, 4, True)
    else:
        assert sidecar["gate"] is None


def test_an_operator_that_the_target_lacks_is_an_instruction(tiny_vit, tiny_frames, tmp_path):
    short = target().model_copy(update={"ops": ["MatMul"]})
    with pytest.raises(ConfigError, match=r"onnxruntime-cpu has no operator Add"):
        export(tiny_vit, tiny_frames, tmp_path / "m", chosen=short, tokens=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "changes", "message"),
    [
        ("jetson-jp6-orin", ["opset=23", "attention=attention"], "needs opset 23, jetson-jp6-orin reads 20 at most"),
        ("jetson-jp6-orin", ['repairs=["accumulation"]'], "needs opset 23"),
        ("datacenter", ["opset=24"], "less than or equal to 23"),
        ("datacenter", ["opset=20", "attention=attention"], "opset 23 belong together"),
        ("datacenter", ["attention=multi-head"], "ONNX Runtime's own"),
        ("datacenter", ["prompts.per_row=true"], "for bound prompts"),
        ("datacenter", ["prompts.mode=bound", "prompts.per_row=true"], "needs a batch"),
        ("datacenter", ["batch.opt=3"], "min <= opt <= max"),
        ("datacenter", ["batch.min=2", "batch.opt=2", "batch.max=2"], "a batch is 1, or a range"),
        ("datacenter", ["version=banana"], "'banana' is not known"),
        ("datacenter", ['version="12.0"'], "'12.0' is not known"),
        ("datacenter", ["tolerance.max_abs=inf"], "finite number"),
        ("datacenter", ["int8_tolerance.kl=inf"], "finite number"),
    ],
)
def test_a_target_that_contradicts_itself_is_an_instruction(page, changes, message):
    with pytest.raises(ConfigError, match=message):
        target(page, *changes)


def test_opset_13_cannot_free_the_batch(tiny_vit, tiny_frames, tmp_path):
    with pytest.raises(ConfigError, match="opset 13 cannot free the batch axis"):
        export(
            tiny_vit, tiny_frames, tmp_path / "m", chosen=target("jetson-jp5", "batch.opt=2", "batch.max=2"), tokens=8
        )


def test_float32_input_is_the_normalised_clip(tiny_vit, tiny_frames, tmp_path):
    _, sidecar = export(
        tiny_vit, tiny_frames, tmp_path / "m", chosen=target("onnxruntime-cpu", "input=float32"), tokens=8
    )
    assert sidecar["inputs"]["clip"] == {"dtype": "float32", "shape": [1, 3, 4, 32, 32], "profile": None}
    model = ModelDir.load(tmp_path / "m")
    session = OrtSession(model.onnx)
    golden = np.load(tmp_path / "m" / "golden.npz")
    found = session.run(model.feeds(session.inputs, golden["frames"][0]))["logits"]
    assert np.abs(found - golden["logits"][:1]).max() < 1e-4


def test_float16_is_written_into_the_graph(tiny_vit, tiny_frames, tmp_path):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("tensorrt-rtx"), tokens=8)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m" / "model.onnx")).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert types["logits"] == full
    for node in inferred.node:
        if node.op_type in ("Softmax", "Gelu", "Conv"):
            assert types[node.output[0]] == half
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == full
    assert sidecar["parity"]["max_abs"] > 1e-6  # half precision that costs nothing would not be half precision


@pytest.mark.parametrize("method", ["apt", "vpt-deep"])
def test_folded_and_bound_agree_to_the_last_bit(tiny_vit, tiny_frames, tmp_path, method):
    export(tiny_vit, tiny_frames, tmp_path / "folded", method, tokens=4)
    chosen = target("onnxruntime-cpu", "prompts.mode=bound")
    model, sidecar = export(tiny_vit, tiny_frames, tmp_path / "bound", method, chosen, tokens=4)
    task = load_file(tmp_path / "bound" / "prompts.safetensors")
    assert (
        sorted(task)
        == sorted([*sidecar["prompts"], "head.bias", "head.weight"])
        == sorted(set(sidecar["inputs"]) - {"clip"})
    )
    assert np.array_equal(task["blocks.1.attn.prompt_value"], model.extra[1].value.numpy())
    for frames in tiny_frames:
        assert np.array_equal(
            logits(tmp_path / "folded", {"clip": frames[None]}),
            logits(tmp_path / "bound", {"clip": frames[None], **task}),
        )


def test_bound_float16_prompts_are_inputs_that_compile(tiny_vit, tiny_frames, tmp_path):
    chosen = target("tensorrt-rtx", "prompts.mode=bound")
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8)
    assert sidecar["gate"]["fused_attention"] == 2
    task = load_file(tmp_path / "m" / "prompts.safetensors")
    assert {name: values.dtype.name for name, values in task.items()} == {
        **dict.fromkeys(sidecar["prompts"], "float16"),
        "head.bias": "float32",
        "head.weight": "float32",
    }
    assert all(sidecar["inputs"][name]["dtype"] == values.dtype.name for name, values in task.items())


@pytest.mark.parametrize("page", ["onnxruntime-cpu", "openvino-cpu", "onnxruntime-cuda"])
def test_every_row_of_a_batch_has_its_own_task(tiny_vit, tiny_frames, tmp_path, page):
    chosen = target(
        page,
        "prompts.mode=bound",
        "prompts.per_row=true",
        "batch.opt=2",
        "batch.max=4",
        "precision=float32",
        "gate=none",
    )
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8)
    assert sidecar["inputs"]["blocks.0.attn.prompt_key"]["profile"] == [[1, 1, 8, 32], [2, 1, 8, 32], [4, 1, 8, 32]]
    mine = load_file(tmp_path / "m" / "prompts.safetensors")
    assert sidecar["inputs"]["head.weight"]["profile"] == [[1, 64, 5], [2, 64, 5], [4, 64, 5]]
    assert sidecar["inputs"]["head.bias"]["profile"] == [[1, 5], [2, 5], [4, 5]]
    other = {name: values[..., ::-1] * 2 for name, values in mine.items()}
    both = {name: np.concatenate([mine[name], other[name]]) for name in mine}
    rows = logits(tmp_path / "m", {"clip": tiny_frames[:2], **both})
    for row, task in enumerate((mine, other)):
        alone = logits(tmp_path / "m", {"clip": tiny_frames[row : row + 1], **task})
        assert np.abs(rows[row] - alone[0]).max() < 1e-5
    assert np.abs(rows[1] - logits(tmp_path / "m", {"clip": tiny_frames[1:2], **mine})[0]).max() > 1e-3


def test_bound_prompts_may_have_a_free_count(tiny_vit, tiny_frames, tmp_path):
    chosen = target("tensorrt-rtx", "prompts.mode=bound", "prompts.max_count=16")
    model, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8)
    assert sidecar["inputs"]["blocks.0.attn.prompt_key"]["profile"] == [[1, 1, n, 32] for n in (1, 8, 16)]
    assert sidecar["gate"]["fused_attention"] == 2
    chosen = target("onnxruntime-cpu", "prompts.mode=bound", "prompts.max_count=16")
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "float32", chosen=chosen, tokens=8)
    assert sidecar["inputs"]["blocks.0.attn.prompt_key"]["profile"] == [[1, 1, n, 32] for n in (0, 8, 16)]
    task = load_file(tmp_path / "float32" / "prompts.safetensors")
    for count in (3, 0):
        extra = {block: ExtraKV(kv.key[:, :, :count], kv.value[:, :, :count]) for block, kv in model.extra.items()}
        values = {name: task[name][:, :, :count] if name in sidecar["prompts"] else task[name] for name in task}
        found = logits(tmp_path / "float32", {"clip": tiny_frames[:1], **values})
        few = FoldedModel(tiny_vit, model.head, extra if count else {})
        assert np.abs(found - torch_logits(few, tiny_frames[:1], TINY_CLIP)).max() < 1e-4


@pytest.mark.parametrize("page", ["onnxruntime-cpu", "openvino-cpu", "tensorrt-rtx", "onnxruntime-cuda"])
def test_a_free_batch_gives_what_single_clips_give(tiny_vit, tiny_frames, tmp_path, page):
    _, sidecar = export(
        tiny_vit, tiny_frames, tmp_path / "m", chosen=target(page, "batch.opt=2", "batch.max=4"), tokens=8
    )
    assert sidecar["inputs"]["clip"]["profile"] == [[n, 4, 32, 32, 3] for n in (1, 2, 4)]
    together = logits(tmp_path / "m", {"clip": tiny_frames[:3]})
    alone = np.concatenate([logits(tmp_path / "m", {"clip": tiny_frames[i : i + 1]}) for i in range(3)])
    assert np.abs(together - alone).max() < (1e-5 if sidecar["precision"] == "float32" else 2e-2)


def test_the_graph_really_uses_the_prompts(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    before = logits(tmp_path / "m", {"clip": tiny_frames[:1]})
    graph = onnx.load(tmp_path / "m" / "model.onnx")
    tensor = next(t for t in graph.graph.initializer if t.name == "blocks.0.attn.prompt_value")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(graph, tmp_path / "m" / "model.onnx")
    assert np.abs(before - logits(tmp_path / "m", {"clip": tiny_frames[:1]})).max() > 1e-2


@pytest.mark.parametrize("page", ["onnxruntime-cpu", "tensorrt-rtx"])
def test_unfolded_vpt_gives_the_folded_logits(tiny_vit, tiny_frames, tmp_path, page):
    tuned = tiny_model(tiny_vit, "vpt-deep", tokens=4)
    folded = FoldedModel(tiny_vit, tuned.head, tuned.method.fold(tiny_vit))
    tokens = VptDeepTokens(tiny_vit, tuned.method, tuned.head).requires_grad_(False)
    found = []
    for name, model in {"folded": folded, "tokens": tokens}.items():
        sidecar = tiny_export(model, tiny_frames).to(target(page), tmp_path / name)
        found.append(logits(tmp_path / name, {"clip": tiny_frames[:1]}))
    assert sidecar["prompts"] == []
    assert np.abs(found[0] - found[1]).max() < (
        1e-4 if found[0].dtype == np.float32 and sidecar["precision"] == "float32" else 5e-2
    )


def test_parity_gate_fails_and_leaves_nothing(tiny_vit, tiny_frames, tmp_path):
    with pytest.raises(GateError, match="parity failed"):
        export(
            tiny_vit, tiny_frames, tmp_path / "m", chosen=target("onnxruntime-cpu", "tolerance.max_abs=1e-12"), tokens=8
        )
    assert list(tmp_path.iterdir()) == []


def test_a_free_batch_is_proved_at_its_largest(tiny_vit, tiny_frames, tmp_path, monkeypatch):
    chosen = target("openvino-cpu", "batch.max=4")
    monkeypatch.setattr("export.graph.batch._expand", lambda *_: None)  # prompts stay those of one clip
    with pytest.raises(ModelError, match="cannot run the graph"):
        tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames).to(chosen, tmp_path / "m")
    with pytest.raises(ConfigError, match="cannot be proved with one clip"):
        tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames[:1]).to(chosen, tmp_path / "m")


def test_another_ones_directory_is_not_replaced(tiny_vit, tiny_frames, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    exporting = tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames)
    with pytest.raises(ModelError, match="something else than an export"):
        exporting.to(target(), tmp_path / "m")
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "../../escape", "a/b"])
def test_a_targets_name_is_one_folder(name):
    with pytest.raises(ConfigError, match="name"):
        target("datacenter", f'name="{name}"')


def test_openvino_targets_are_proved_in_openvino(tiny_vit, tiny_frames, tmp_path):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("openvino-cpu"), tokens=8)
    assert sidecar["parity"]["session"] == "openvino-float32"


def test_one_pack_one_trace_many_targets(tiny_vit, tiny_frames, tmp_path):
    model = folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit)
    together = tiny_export(model, tiny_frames)
    for page in ("jetson-jp6-orin", "tensorrt-rtx", "jetson-jp6-orin"):
        together.to(target(page), tmp_path / page)
    tiny_export(model, tiny_frames).to(target("jetson-jp6-orin"), tmp_path / "alone")
    assert (tmp_path / "jetson-jp6-orin" / "model.onnx").read_bytes() == (
        tmp_path / "alone" / "model.onnx"
    ).read_bytes()


def test_model_dir_notices_changed_files(tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    model = ModelDir.load(tmp_path / "m")
    assert model.labels == LABELS
    assert model.clip == TINY_CLIP
    shutil.copytree(tmp_path / "m", tmp_path / "other")
    (tmp_path / "other" / "model.json").write_text(
        (tmp_path / "m" / "model.json").read_text().replace('"size": 32', '"size": 48')
    )
    inputs = OrtSession(model.onnx).inputs
    with pytest.raises(ModelError, match="input"):
        ModelDir.load(tmp_path / "other").feeds(inputs, tiny_frames[0])
    with (tmp_path / "m" / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match="is not the file"):
        ModelDir.load(tmp_path / "m")


KILLED = """
import sys
from pathlib import Path
import numpy as np, torch
from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import Vit
from tests.conftest import TINY, tiny_pack
from tests.export.exporting import target, tiny_export
import export.model

vit = freeze(Vit(TINY))
frames = np.zeros((2, 4, 32, 32, 3), np.uint8)
exporting = tiny_export(folded_model(tiny_pack(vit, tokens=8), vit), frames)
prove = export.model.prove_compiled
def slowly(*args, **kwargs):
    print("compiling", flush=True)
    sys.stdin.read()  # killed here, with the graph written and nothing proved
    return prove(*args, **kwargs)
if sys.argv[2] == "slowly":
    export.model.prove_compiled = slowly
exporting.to(target("tensorrt-rtx"), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_a_second_run_would_use(tmp_path):
    root = Path(__file__).parents[2]
    scratch, out = tmp_path / "tmp", tmp_path / "out"
    scratch.mkdir()
    command = [sys.executable, "-c", KILLED, str(out / "m")]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [*command, "slowly"],
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"compiling\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "m").exists()
    done = subprocess.run([*command, "now"], cwd=root, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.iterdir()] == ["m"]
    assert list(scratch.rglob("*.onnx")) == []
    assert ModelDir.load(out / "m").facts["gate"]["deterministic"] is True
