"""Packs: nothing is lost on the way to disk, and damage is noticed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import backbone_hash, load_backbone, random_backbone, save_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.errors import BackboneError, PackError
from apt_edge.pack import PromptPack
from tests.conftest import TINY_CLIP, tiny_model, tiny_pack


@pytest.mark.parametrize(
    ("method", "settings"), [("apt", {"tokens": 4, "start": 1}), ("vpt-deep", {"tokens": 3}), ("linear", {})]
)
def test_a_pack_gives_the_trained_models_logits(tiny_vit, tiny_clips, tmp_path, method, settings):
    clip = torch.from_numpy(tiny_clips)
    tiny_pack(tiny_vit, method, **settings).save(tmp_path / "pack.safetensors")
    pack = PromptPack.load(tmp_path / "pack.safetensors")
    with torch.no_grad():
        assert torch.equal(folded_model(pack, tiny_vit)(clip), tiny_model(tiny_vit, method, **settings)(clip))
    assert pack.clip == TINY_CLIP
    assert pack.labels == tuple(f"class {i}" for i in range(5))
    assert pack.method == method
    assert set(pack.tokens.values()) <= {settings.get("tokens")}


def test_equal_packs_are_equal_files(tiny_vit, tmp_path):
    pack = tiny_pack(tiny_vit, tokens=4)
    pack = dataclasses.replace(pack, labels=("gehen (müde)", "läuft", "走る", 'a "b" \\ c', "caf\udce9"))
    files = set()
    for number in range(5):  # ten names in a random order
        pack.save(tmp_path / f"{number}.safetensors")
        files.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(files) == 1
    loaded = PromptPack.load(tmp_path / "0.safetensors")
    assert loaded.labels == pack.labels
    assert np.array_equal(loaded.kv[1].key, pack.kv[1].key)


def test_half_precision_halves_prompts_alone(tiny_vit, tmp_path):
    pack = tiny_pack(tiny_vit, tokens=200)
    pack.save(tmp_path / "whole.safetensors")
    pack.save(tmp_path / "half.safetensors", half=True)
    loaded = PromptPack.load(tmp_path / "half.safetensors")
    changed = 0.0
    for block, kv in pack.kv.items():
        for mine, theirs in zip(kv, loaded.kv[block], strict=True):
            assert theirs.dtype == np.float32
            assert np.array_equal(theirs, mine.astype(np.float16))
            changed = max(changed, float(np.abs(theirs - mine).max()))
    assert loaded.rounding == changed > 0
    assert all(np.array_equal(loaded.head[name], pack.head[name]) for name in pack.head)
    saved = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    prompts = sum(array.size for kv in pack.kv.values() for array in kv)
    assert abs(saved[0] - saved[1] - 2 * prompts) < 64  # the header says more
    loaded.save(tmp_path / "again.safetensors")
    assert PromptPack.load(tmp_path / "again.safetensors").rounding == changed  # what is lost stays lost


def test_apt_packs_store_what_the_heads_share_once(tiny_vit):
    assert tiny_pack(tiny_vit, "apt", tokens=4).kv[0].key.shape == (1, 4, 32)
    assert tiny_pack(tiny_vit, "vpt-deep", tokens=4).kv[0].key.shape == (2, 4, 32)


def test_another_backbone_is_refused_with_both_names(tiny_vit):
    pack = tiny_pack(tiny_vit, tokens=4)
    tiny_vit.block(0).fc1.bias.data[0] += 1
    with pytest.raises(PackError, match=r"(?s)do not belong together.*my.pack was trained on tiny.*other\.safetensors"):
        folded_model(pack, tiny_vit, "other.safetensors", "my.pack")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_cut_pack_is_refused(tiny_vit, tmp_path, keep):
    path = tmp_path / "pack.safetensors"
    tiny_pack(tiny_vit, tokens=4).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(PackError, match="not a readable pack"):
        PromptPack.load(path)


def test_missing_and_foreign_files_are_refused(tiny_vit, tmp_path):
    with pytest.raises(PackError, match="no pack at"):
        PromptPack.load(tmp_path / "absent.safetensors")
    save_backbone(tmp_path / "vit.safetensors", tiny_vit)
    with pytest.raises(PackError, match="is not a prompt pack"):
        PromptPack.load(tmp_path / "vit.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_pack_with_a_number_that_is_not_finite_is_refused(tiny_vit, tmp_path, bad):
    pack = tiny_pack(tiny_vit, tokens=4)
    pack.kv[1].value[0, 2, 3] = bad
    pack.save(tmp_path / "pack.safetensors")
    with pytest.raises(PackError, match=r"not finite\s+found: kv\.1\.value"):
        PromptPack.load(tmp_path / "pack.safetensors")


def test_a_pack_checks_itself(tiny_vit):
    pack = tiny_pack(tiny_vit, tokens=4)
    with pytest.raises(PackError, match="5 rows for 1 labels"):
        dataclasses.replace(pack, labels=("one",))
    with pytest.raises(PackError, match="must both be"):
        dataclasses.replace(pack, kv={0: type(pack.kv[0])(np.zeros((1, 4, 32)), np.zeros((1, 3, 32)))})


def test_a_failed_save_leaves_the_old_pack(tiny_vit, tmp_path, monkeypatch):
    path = tmp_path / "pack.safetensors"
    tiny_pack(tiny_vit, tokens=4).save(path)
    before = path.read_bytes()

    def broken(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apt_edge.pack.save_file", broken)
    with pytest.raises(OSError, match="No space"):
        tiny_pack(tiny_vit, tokens=4).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["pack.safetensors"]


def test_backbones_survive_the_disk(tiny_vit, tmp_path):
    save_backbone(tmp_path / "vit.safetensors", tiny_vit)
    loaded = load_backbone(tmp_path / "vit.safetensors")
    assert backbone_hash(loaded) == backbone_hash(tiny_vit)
    assert loaded.config == tiny_vit.config
    assert not any(p.requires_grad for p in loaded.parameters())
    assert backbone_hash(random_backbone("nano")) == backbone_hash(load_backbone("random:nano"))
    assert backbone_hash(random_backbone("nano", seed=1)) != backbone_hash(random_backbone("nano"))


def test_bad_backbone_files_are_refused(tmp_path):
    with pytest.raises(BackboneError, match="no backbone weights"):
        load_backbone(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(BackboneError, match="not a readable safetensors"):
        load_backbone(tmp_path / "text.safetensors")
