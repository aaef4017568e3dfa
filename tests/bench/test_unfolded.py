"""VPT-deep as published, rebuilt from a finished run: the folded pack's logits, at the price of its tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import save_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.errors import ConfigError
from apt_edge.files import sha256, write_json
from apt_edge.methods.tuned import make_pack
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.ort import OrtSession
from apt_edge.video.preprocess import normalise
from bench.build import build_unfolded, random_clips
from bench.contenders import open_contenders
from bench.flops import make_method
from bench.graph import graph_macs
from bench.suite import Contender
from tests.conftest import TINY_CLIP, tiny_model

TOKENS = 6


def finished_run(vit, folder, method, **settings):
    """The two files of a training run that count here."""
    save_backbone(folder / "vit.safetensors", vit)
    model = tiny_model(vit, method, **settings)
    pack = make_pack(
        model, method=method, settings=settings, clip=TINY_CLIP, labels=[f"class {i}" for i in range(5)],
        backbone=str(folder / "vit.safetensors"), training={},
    )  # fmt: skip
    pack.save(folder / "pack.safetensors")
    save_file(model.method.state_dict(), folder / "method.safetensors")
    return pack


def test_unfolded_equals_folded_and_costs_more(tiny_vit, tmp_path):
    pack = finished_run(tiny_vit, tmp_path, "vpt-deep", tokens=TOKENS, start=1)
    out = build_unfolded(tmp_path)
    (frames,) = random_clips(TINY_CLIP, 1)
    session = OrtSession(out / "model.onnx")
    found = session.run(ModelDir.load(out).feeds(session.inputs, frames))["logits"]
    with torch.no_grad():
        model = folded_model(pack, tiny_vit)
        expected = model(torch.from_numpy(normalise(frames, TINY_CLIP)[None])).numpy()
    assert np.abs(found - expected).max() < 1e-4
    before = (out / "model.json").stat().st_mtime_ns
    method = make_method("vpt-deep", tiny_vit.config, {"tokens": TOKENS, "start": 1})
    assert graph_macs(out / "model.onnx") > method.clip_macs(5, deployed=True)
    assert build_unfolded(tmp_path) == out
    assert (out / "model.json").stat().st_mtime_ns == before  # the same pack is not exported again
    write_json(out / "model.json", ModelDir.load(out).facts | {"sources": "others"})
    build_unfolded(tmp_path)
    assert ModelDir.load(out).facts["sources"] != "others"


def test_a_suite_opens_it(tiny_vit, tmp_path):
    pack = finished_run(tiny_vit, tmp_path, "vpt-deep", tokens=TOKENS, start=1)
    (opened,) = open_contenders([Contender(name="x", unfolded=str(tmp_path))], [1], 1, tmp_path)
    facts = opened.facts
    assert (facts["method"], facts["tokens"], facts["pack_sha256"]) == (
        "vpt-deep", TOKENS, sha256(tmp_path / "pack.safetensors"),
    )  # fmt: skip
    assert facts["trainable_parameters"] == pack.trainable_parameters
    frames = random_clips(TINY_CLIP, 1)
    assert opened.run(frames).shape == (1, 5)


def test_other_methods_are_refused(tiny_vit, tmp_path):
    finished_run(tiny_vit, tmp_path, "apt", tokens=TOKENS)
    with pytest.raises(ConfigError, match="a run of apt"):
        build_unfolded(tmp_path)
