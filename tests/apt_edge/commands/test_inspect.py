"""`apt-edge inspect` on every kind of file."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import save_backbone
from tests.conftest import tiny_pack
from tests.export.exporting import export, target


def test_inspect_knows_every_kind_of_file(apt_edge, tiny_vit, tiny_frames, tmp_path):
    export(tiny_vit, tiny_frames, tmp_path / "m", chosen=target("tensorrt-rtx"), tokens=8)
    (tmp_path / "m" / "model.engine").write_bytes(b"some plan")
    tiny_pack(tiny_vit, tokens=8).save(tmp_path / "pack.safetensors")
    pack = json.loads(apt_edge("inspect", tmp_path / "pack.safetensors", "--json").stdout)
    assert (pack["kind"], pack["method"], pack["prompts"]["block 0"]) == ("prompt pack", "apt", "8 x 1 head(s)")
    assert (pack["form"], pack["changed_numbers"]) == ("the backbone as it is", 0)
    tiny_pack(tiny_vit, "adaptformer", r=8, start=1).save(tmp_path / "changed.safetensors")
    pack = json.loads(apt_edge("inspect", tmp_path / "changed.safetensors", "--json").stdout)
    assert (pack["form"], pack["changed_numbers"], pack["prompts"]) == ("parallel", 2 * 64 * 8 + 8 + 64, {})
    model = json.loads(apt_edge("inspect", tmp_path / "m", "--json").stdout)
    assert (model["kind"], model["precision"], model["attention"]) == ("exported model", "float16", 2)
    engine = json.loads(apt_edge("inspect", tmp_path / "m" / "model.engine", "--json").stdout)
    assert "describes another engine" in engine["known"]
    save_backbone(tmp_path / "b.safetensors", tiny_vit)
    backbone = json.loads(apt_edge("inspect", tmp_path / "b.safetensors", "--json").stdout)
    assert (backbone["kind"], backbone["config"]["family"], backbone["config"]["per_frame"]) == (
        *("apt-edge backbone 1", "videomae"),
        False,
    )
    save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    assert "python -m train.convert" in apt_edge("inspect", tmp_path / "x.safetensors").stdout
    done = apt_edge("inspect", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
