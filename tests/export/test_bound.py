"""A bound graph with free axes serves packs of any size, to the last bit of what each pack's own graph gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from apt_edge.backbone.folded import folded_model
from apt_edge.errors import ConfigError, GateError, ModelError
from apt_edge.files import sha256
from apt_edge.methods.tuned import make_pack
from apt_edge.pack import FoldedKV, PromptPack, folded_head
from apt_edge.runtime.model_dir import PROMPTS, ModelDir, prompt_name
from apt_edge.runtime.openvino import OpenVinoSession
from export.graph.prompts import HEAD
from export.model import Export
from tests.conftest import TINY_CLIP, tiny_model, tiny_pack
from tests.export.exporting import export, logits, target, tiny_export

FREE = ("prompts.mode=bound", "prompts.max_count=16", "prompts.max_classes=300")
TASKS = [(300, "apt", {"tokens": 16, "start": 1}), (1, "linear", {})]


def pack_of(vit, classes: int, method: str, settings: dict[str, Any]) -> PromptPack:
    model = tiny_model(vit, method, classes=classes, **settings)
    labels = [str(label) for label in range(classes)]
    facts = {"method": method, "settings": settings, "backbone": "tiny", "training": {}}
    return make_pack(model, labels=labels, clip=TINY_CLIP, **facts)


def values_of(pack: PromptPack, names: list[str]) -> dict[str, np.ndarray]:
    """A pack as inputs; no prompts where it has none."""
    values = dict.fromkeys(names, np.zeros((1, 1, 0, 32), np.float32))
    for block, kv in pack.kv.items():
        values |= {prompt_name(block, "key"): kv.key[None], prompt_name(block, "value"): kv.value[None]}
    return values | dict(zip(HEAD, folded_head(pack.head), strict=True))


def test_packs_of_any_size_give_what_their_own_graphs_give(tiny_vit, tiny_frames, tmp_path):
    bound = tiny_export(folded_model(tiny_pack(tiny_vit, tokens=8), tiny_vit), tiny_frames)
    packs = [pack_of(tiny_vit, *task) for task in TASKS]
    folded = [
        Export(folded_model(pack, tiny_vit), frames=tiny_frames, clip=TINY_CLIP, labels=pack.labels, facts={})
        for pack in packs
    ]
    for rows, batch in {1: (), None: ("batch.max=4",)}.items():
        sidecar = bound.to(target("onnxruntime-cpu", *FREE, *batch), tmp_path / "bound")
        assert sidecar["inputs"]["head.weight"] == {
            "dtype": "float32",
            "shape": [1, 64, None],
            "profile": [[1, 64, classes] for classes in (1, 5, 300)],
        }
        assert sidecar["inputs"]["head.bias"]["profile"] == [[1, classes] for classes in (1, 5, 300)]
        assert sidecar["outputs"]["logits"]["shape"] == [rows, None]
        for pack, exporting in zip(packs, folded, strict=True):
            exporting.to(target("onnxruntime-cpu", *batch), tmp_path / "own")
            values = values_of(pack, sidecar["prompts"])
            for frames in [*np.split(tiny_frames, 4), *([tiny_frames] if batch else [])]:
                found = logits(tmp_path / "bound", {"clip": frames, **values})
                assert found.shape == (len(frames), len(pack.labels))
                assert np.array_equal(found, logits(tmp_path / "own", {"clip": frames}))


def test_no_prompts_are_none_in_openvino_too(tiny_vit, tiny_frames, tmp_path):
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("openvino-cpu", *FREE), tokens=8)
    pack = pack_of(tiny_vit, *TASKS[-1])
    session = OpenVinoSession(tmp_path / "m" / "model.onnx")
    found = session.run({"clip": tiny_frames[:1], **values_of(pack, sidecar["prompts"])})["logits"]
    model = folded_model(pack, tiny_vit)
    assert np.abs(found - tiny_export(model, tiny_frames[:1]).reference).max() < 1e-4


def test_tensorrt_compiles_a_free_head_and_has_no_count_of_zero(tiny_vit, tiny_frames, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    _, sidecar = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("tensorrt-rtx", *FREE), tokens=8)
    assert sidecar["gate"]["fused_attention"] == 2
    assert sidecar["inputs"]["blocks.0.attn.prompt_key"]["profile"] == [[1, 1, n, 32] for n in (1, 8, 16)]
    assert sidecar["inputs"]["head.weight"]["profile"] == [[1, 64, classes] for classes in (1, 5, 300)]


def test_a_bound_graph_is_never_in_bfloat16(tiny_vit, tiny_frames, tmp_path):
    with pytest.raises(ConfigError, match=r"numpy, which has no bfloat16: .*prompts\.mode=folded"):
        target("datacenter", "precision=bfloat16", "prompts.mode=bound")
    pack = tiny_pack(tiny_vit, tokens=8)
    large = dataclasses.replace(pack, kv={block: FoldedKV(kv.key, 1e6 * kv.value) for block, kv in pack.kv.items()})
    with pytest.raises(GateError, match=r"(?s)no form.*bfloat16: bound prompts are fed from numpy"):
        tiny_export(folded_model(large, tiny_vit), tiny_frames).to(
            target("datacenter", "prompts.mode=bound"), tmp_path / "m"
        )
    assert not (tmp_path / "m").exists()


def test_the_prompts_have_a_hash(tiny_vit, tiny_frames, tmp_path):
    _, bound = export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("onnxruntime-cpu", *FREE), tokens=8)
    assert bound["prompts_sha256"] == sha256(tmp_path / "m" / PROMPTS)
    other = {name: array + 1 for name, array in load_file(tmp_path / "m" / PROMPTS).items()}
    save_file(other, tmp_path / "m" / PROMPTS)
    with pytest.raises(ModelError, match=r"is not the file that model\.json describes"):
        _ = ModelDir.load(tmp_path / "m").prompts
    _, folded = export(tiny_vit, tiny_frames, tmp_path / "folded", tokens=8)
    assert folded["prompts_sha256"] is None


def test_more_classes_than_the_graph_has_room_for_are_an_instruction(tiny_vit, tiny_frames, tmp_path):
    model = folded_model(tiny_pack(tiny_vit, tokens=4), tiny_vit)
    with pytest.raises(ConfigError, match=r"head.weight has 5 classes, prompts.max_classes is 3\s+fix:   raise"):
        tiny_export(model, tiny_frames).to(
            target("onnxruntime-cpu", "prompts.mode=bound", "prompts.max_classes=3"), tmp_path / "m"
        )


def test_a_folded_head_is_the_head():
    """Against the formula in longer arithmetic; equal packs give equal bits, in whatever layout their arrays lie."""
    rng = np.random.default_rng(0)
    head = {
        "norm.weight": rng.normal(size=64),
        "norm.bias": rng.normal(size=64),
        "weight": rng.normal(size=(5, 64)),
        "bias": rng.normal(size=5),
    }
    head = {name: array.astype(np.float32) for name, array in head.items()}
    weight, bias = folded_head(head)
    assert (weight.shape, weight.dtype, bias.shape, bias.dtype) == ((1, 64, 5), np.float32, (1, 5), np.float32)
    pooled = rng.normal(size=64).astype(np.longdouble)
    normed = pooled * head["norm.weight"] + head["norm.bias"]
    assert (
        np.abs(pooled @ weight[0] + bias[0] - (head["weight"].astype(np.longdouble) @ normed + head["bias"])).max()
        < 1e-5
    )
    turned = {name: np.asfortranarray(array) for name, array in head.items()}
    assert all(np.array_equal(one, other) for one, other in zip(folded_head(turned), (weight, bias), strict=True))
