"""Parts of a graph: nothing is lost between them, the runtime's chain of them is the whole, and wrong cuts are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.vit import Head, Vit, VitConfig
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, GateError, ModelError
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.parts import open_parts, tubelet_of
from apt_edge.runtime.session import Held
from apt_edge.runtime.tasks import own_task
from export.graph.split import split
from export.model import Export
from export.to_bundle import to_bundle
from tests.apt_edge.methods.conftest import vit
from tests.conftest import tiny_pack
from tests.export import test_clip_family, test_forms
from tests.export.exporting import LABELS, export, logits, target, tiny_export

__all__ = ["vit"]  # a fixture


def chained(path: Path, frames: np.ndarray) -> np.ndarray:
    """Logits of clips `[B, T, S, S, 3]` by what a device runs: one time step after the other, then the parts behind."""
    model = ModelDir.load(path)
    parts = open_parts(model, threads=1)
    held: list[Held] = [part.session.hold(part.values(own_task(model))) for part in parts]
    value, first = frames, 0
    if tubelet := tubelet_of(parts):
        steps = np.split(frames, frames.shape[1] // tubelet, axis=1)
        value = np.concatenate([parts[0].run(np.ascontiguousarray(step), held[0]) for step in steps], axis=1)
        first = 1
    for part, own in zip(parts[first:], held[first:], strict=True):
        value = part.run(value, own)
    return value


def names(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node]


def check(path: Path, frames: np.ndarray, feeds: dict[str, np.ndarray] | None = None) -> None:
    """The chain gives the last bit of the whole for every clip, and each node is in one part."""
    for clip in frames:
        assert np.array_equal(chained(path, clip[None]), logits(path, {"clip": clip[None], **(feeds or {})}))
    whole, pieces = names(path / "model.onnx"), [names(part) for part in ModelDir.load(path).parts()]
    assert sorted(whole) == sorted(name for piece in pieces for name in piece)


@pytest.mark.parametrize("changes", [(), ("batch.max=4",), ("prompts.mode=bound",)])
def test_the_parts_are_the_whole(tiny_vit, tiny_frames, tmp_path, changes):
    chosen = target("onnxruntime-cpu", "split_at=[0, 1]", *changes)
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8, start=1)
    check(tmp_path / "m", tiny_frames, ModelDir.load(tmp_path / "m").prompts)
    rows = None if "batch.max=4" in changes else 1
    stem, trunk, branch = sidecar["parts"]
    assert [part["file"] for part in sidecar["parts"]] == ["part0.onnx", "part1.onnx", "part2.onnx"]
    assert [part["first_block"] for part in sidecar["parts"]] == [0, 0, 1]
    profile = [[1, 2, 32, 32, 3], [1, 2, 32, 32, 3], [4, 2, 32, 32, 3]] if rows is None else None
    assert stem["inputs"] == {"clip": {"dtype": "uint8", "shape": [rows, 2, 32, 32, 3], "profile": profile}}
    assert stem["outputs"] == {"patches": {"dtype": "float32", "shape": [rows, 4, 64]}}
    assert list(trunk["inputs"]) == ["patches"]
    assert trunk["outputs"] == {"tokens.1": {"dtype": "float32", "shape": [rows, 8, 64]}}
    own = {"head.bias", "head.weight", *sidecar["prompts"]} if "prompts.mode=bound" in changes else set()
    assert set(branch["inputs"]) == {"tokens.1"} | own
    assert branch["inputs"]["tokens.1"]["shape"] == [rows, 8, 64]
    assert branch["outputs"] == sidecar["outputs"]
    assert sidecar["trunk_prompts"] is False
    assert sidecar["parts_max_abs"] == 0
    if rows is None:
        assert np.array_equal(chained(tmp_path / "m", tiny_frames), logits(tmp_path / "m", {"clip": tiny_frames}))


def test_without_a_cut_there_are_no_parts(tiny_vit, tiny_frames, tmp_path):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", tokens=8)
    assert sidecar["parts"] == []
    assert not list((tmp_path / "m").glob("part*"))
    assert len(open_parts(ModelDir.load(tmp_path / "m"))) == 1


@pytest.mark.parametrize("mode", ["folded", "bound"])
def test_prompts_in_front_of_a_cut_are_told(tiny_vit, tiny_frames, tmp_path, mode):
    chosen = target("onnxruntime-cpu", "split_at=[1]", f"prompts.mode={mode}")
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8)
    check(tmp_path / "m", tiny_frames[:1], ModelDir.load(tmp_path / "m").prompts)
    assert sidecar["trunk_prompts"] is True
    keys = {"blocks.0.attn.prompt_key", "blocks.0.attn.prompt_value"}
    assert keys <= set(sidecar["parts"][0]["inputs"]) or mode == "folded"


@pytest.mark.parametrize("form", ["parallel", "temporal", "tokens, pooled"])
def test_changed_backbones_can_be_cut_in_front_of_every_block(vit, tmp_path, form):
    test_forms.exported(vit, tmp_path / "m", form, target("onnxruntime-cpu", "split_at=[0, 1, 2]"))
    check(tmp_path / "m", np.load(tmp_path / "m" / "golden.npz")["frames"])


@pytest.mark.parametrize("form", test_clip_family.FORMS)
def test_patches_are_those_before_positions_and_class_tokens(tmp_path, form):
    chosen = target("onnxruntime-cpu", "split_at=[0, 1]")
    model, export, sidecar = test_clip_family.exported(form, "apt", tmp_path / "m", chosen)
    check(tmp_path / "m", export.frames)
    config = model.vit.config
    assert sidecar["parts"][1]["inputs"]["patches"]["shape"] == [1, config.patches, config.width]
    assert sidecar["parts"][2]["inputs"]["tokens.1"]["shape"] == [1, config.tokens, config.width]


def test_a_time_step_alone_is_the_same_step_of_a_clip_whatever_its_length(tmp_path):
    """36 tokens a time step, 144 a clip: as columns of a convolution their sums would be made of other pieces."""
    torch.manual_seed(0)
    vit = freeze(Vit(VitConfig(width=64, depth=2, heads=2, frames=8, size=48, tubelet=2, patch=8)))
    model = FoldedModel(vit, Head(64, 5, init_scale=1.0).requires_grad_(False), {})
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 48, 48, 3), dtype=np.uint8)
    spec = ClipSpec(frames=8, size=48)
    Export(model, frames=frames, clip=spec, labels=LABELS, facts={}).to(
        target("onnxruntime-cpu", "split_at=[0]"), tmp_path / "m"
    )
    check(tmp_path / "m", frames)


@pytest.mark.parametrize(("page", "dtype"), [("onnxruntime-cuda", "float16"), ("jetson-jp5", "float32")])
def test_below_float32_the_parts_keep_the_types_and_the_tolerance(tiny_vit, tiny_frames, tmp_path, page, dtype):
    chosen = target(page, "split_at=[0, 1]", "gate=none")
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8, start=1)
    cuts = [sidecar["parts"][1]["inputs"]["patches"], sidecar["parts"][2]["inputs"]["tokens.1"]]
    assert [port["dtype"] for port in cuts] == [dtype, dtype]
    assert sidecar["parts_max_abs"] <= sidecar["target"]["tolerance"]["max_abs"]


def test_int8_layers_are_cut_with_the_rest(tiny_vit, tiny_frames, tmp_path):
    chosen = target("onnxruntime-cpu", "int8=true", "int8_tolerance.max_abs=1", "int8_tolerance.kl=1", "split_at=[1]")
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8, start=1)
    found = [node.op_type for part in ModelDir.load(tmp_path / "m").parts() for node in onnx.load(part).graph.node]
    assert found.count("QuantizeLinear") >= 4
    assert sidecar["parts_max_abs"] < 1


def test_parts_that_give_other_logits_are_refused_and_leave_nothing(tiny_vit, tiny_frames, tmp_path, monkeypatch):
    def damaged(*arguments):
        parts = split(*arguments)
        weight = next(value for value in parts[1].model.graph.initializers.values() if value.name.endswith("bias"))
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.001), name=weight.name)
        return parts

    monkeypatch.setattr("export.parts.split", damaged)
    exporting = tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames)
    with pytest.raises(GateError, match=r"the 2 parts do not give what model.onnx gives to the last bit"):
        exporting.to(target("onnxruntime-cpu", "split_at=[1]"), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["split_at=[0, 2]"], r"there is no block 2 to cut in front of\s+fix:   choose among 0 to 1"),
        (["split_at=[1, 0]"], "split_at is ascending, each block once"),
        (["split_at=[1, 1]"], "split_at is ascending, each block once"),
        (["split_at=[-1]"], "split_at"),
        (["split_at=[1]", "precision=bfloat16"], "parts in bfloat16 cannot be proved"),
    ],
)
def test_a_cut_that_cannot_be_is_an_instruction(tiny_vit, tiny_frames, tmp_path, changes, message):
    exporting = tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames[:1])
    page = "jetson-jp6-orin" if "precision=bfloat16" in changes else "onnxruntime-cpu"
    with pytest.raises(ConfigError, match=message):
        exporting.to(target(page, *changes, "gate=none"), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_holds_the_parts_and_a_changed_one_is_refused(tiny_vit, tiny_frames, tmp_path):
    chosen = target("onnxruntime-cpu", "split_at=[0, 1]")
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=chosen, tokens=8, start=1)
    wheel = tmp_path / "apt_edge-0-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    packed = to_bundle(tmp_path / "m", tmp_path / "bundle", wheel)
    assert {"part0.onnx", "part1.onnx", "part2.onnx"} < set(packed["files"])
    check(tmp_path / "bundle", tiny_frames[:1])
    shutil.copy(tmp_path / "m" / "part0.onnx", tmp_path / "m" / "part1.onnx")
    with pytest.raises(ModelError, match=r"part1.onnx is not the part that model.json describes\s+found: another file"):
        to_bundle(tmp_path / "m", tmp_path / "bundle", wheel)
    (tmp_path / "m" / "part1.onnx").unlink()
    with pytest.raises(ModelError, match="no file"):
        open_parts(ModelDir.load(tmp_path / "m"))
