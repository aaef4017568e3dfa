"""Hugging Face's VideoMAE: its own model against what is read from its own files, and names on the hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from apt_edge.backbone.checkpoints import backbone_hash, load_backbone, read_checkpoint
from apt_edge.errors import BackboneError

ROOT = Path(__file__).parents[2]
SHORT = {"num_frames": 4, "image_size": 32}
TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 1,
    "decoder_intermediate_size": 128,
    "num_labels": 5,
    **SHORT,
}
SHAPES = {
    "small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


def model_of(kind: str = "VideoMAEForVideoClassification", **settings):
    """Their model with random weights, none of them zero."""
    import transformers

    config = transformers.VideoMAEConfig(**{"use_mean_pooling": True, **settings})
    with torch.device("meta"):  # their own random weights take longer than all of these tests
        model = getattr(transformers, kind)(config)
    model.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.03)
    return model


def difference(model, vit) -> float:
    """Largest difference of the tokens behind the last block."""
    clip = torch.randn(1, vit.config.frames, 3, vit.config.size, vit.config.size)
    with torch.no_grad():
        expected = model.videomae(clip).last_hidden_state
        assert expected.abs().max() > 0.5
        return float((vit(clip.transpose(1, 2)) - expected).abs().max())


@pytest.mark.parametrize("size", ["small", "base", pytest.param("large", marks=pytest.mark.slow)])
def test_tokens_equal_transformers(size, tmp_path):
    model = model_of(**SHAPES[size], **SHORT)
    for file in ("model.safetensors", "pytorch_model.bin"):
        save(model, tmp_path, file)
        vit = load_backbone(tmp_path)
        assert vit.config.eps == 1e-12
        assert difference(model, vit) <= 1e-4


def save(model, folder: Path, file: str) -> None:
    """As save_pretrained writes it; .bin, which it no longer writes, holds today's names of the biases."""
    model.save_pretrained(folder)
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / file)


def test_both_names_of_the_biases_are_read(tmp_path):
    model = model_of(**TINY)
    save(model, tmp_path / "old", "model.safetensors")
    save(model, tmp_path / "new", "pytorch_model.bin")
    old, new = read_checkpoint(tmp_path / "old"), read_checkpoint(tmp_path / "new")
    assert old.used["blocks.0.attn.q_bias"].endswith("attention.q_bias")
    assert new.used["blocks.0.attn.q_bias"].endswith("query.bias")
    assert backbone_hash(load_backbone(tmp_path / "old")) == backbone_hash(load_backbone(tmp_path / "new"))


def test_parts_are_joined_by_their_index(tmp_path):
    model = model_of(**TINY)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="300KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    expected = backbone_hash(load_backbone(tmp_path / "whole"))
    assert backbone_hash(load_backbone(tmp_path / "parts")) == expected
    assert backbone_hash(load_backbone(tmp_path / "parts" / "model.safetensors.index.json")) == expected
    next((tmp_path / "parts").glob("*-00002-of-*")).unlink()
    with pytest.raises(BackboneError, match="names a file that is not there"):
        load_backbone(tmp_path / "parts")


@pytest.mark.parametrize("kind", ["VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification"])
def test_the_bare_model_is_found_in_each_of_theirs(kind, tmp_path):
    model = model_of(kind, **TINY)
    model.save_pretrained(tmp_path)
    report = read_checkpoint(tmp_path)
    assert (report.head is not None) == (kind == "VideoMAEForVideoClassification")
    assert all(("decoder" in reason) == (kind == "VideoMAEForPreTraining") for reason in report.ignored.values())
    assert bool(report.ignored) == (kind == "VideoMAEForPreTraining")


def test_16_heads_in_the_configuration_of_the_small_model_are_not_believed(tmp_path, capsys):
    right = model_of(**SHAPES["small"], **SHORT, num_hidden_layers=1)
    right.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 16}))
    vit = load_backbone(tmp_path)
    said = capsys.readouterr().err
    assert "configuration says 16 heads, but weights of width 384 are published with 6" in said
    assert "python -m train.convert CHECKPOINT --heads 16\n" in said
    assert vit.config.heads == 6
    assert difference(right, vit) <= 1e-4
    assert read_checkpoint(tmp_path, heads=16).config.heads == 16


def test_epsilons_are_those_of_the_configuration_and_of_pytorch(tmp_path):
    model_of(**TINY, layer_norm_eps=1e-7).save_pretrained(tmp_path)
    config = read_checkpoint(tmp_path).config
    assert (config.eps, config.pool_eps) == (1e-7, 1e-5)
    (tmp_path / "config.json").unlink()
    report = read_checkpoint(tmp_path, frames=4, size=32)
    assert (report.config.eps, report.config.pool_eps) == (1e-12, 1e-5)
    assert any("no config.json" in note for note in report.notes)


def test_another_epsilon_is_another_backbone(tmp_path):
    for eps in (1e-12, 1e-6):
        model_of(**TINY, layer_norm_eps=eps).save_pretrained(tmp_path / str(eps))
    first, second = load_backbone(tmp_path / "1e-12"), load_backbone(tmp_path / "1e-06")
    assert torch.equal(first.patch.weight, second.patch.weight)
    assert backbone_hash(first) != backbone_hash(second)


def test_a_classifier_of_the_first_token_is_not_used(tmp_path):
    model = model_of(**TINY, use_mean_pooling=False)
    model.save_pretrained(tmp_path)
    report = read_checkpoint(tmp_path)
    assert report.head is None
    assert any("reads the first token" in note for note in report.notes)
    assert "first token" in report.ignored["classifier.weight"]
    assert "mean over the tokens" in report.ignored["videomae.layernorm.weight"]
    model.videomae.layernorm = None  # what stands behind the last block there
    assert difference(model, load_backbone(tmp_path)) <= 1e-4


def test_a_key_bias_of_zeros_is_none_and_another_is_refused(tmp_path):
    model = model_of(**TINY)
    state = model.state_dict()
    name = "videomae.encoder.layer.0.attention.attention.key.bias"
    model.config.save_pretrained(tmp_path)
    torch.save(state | {name: torch.zeros(128)}, tmp_path / "pytorch_model.bin")
    assert "zeros" in read_checkpoint(tmp_path).ignored[name]
    torch.save(state | {name: torch.ones(128)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"key\.bias is not zero"):
        read_checkpoint(tmp_path)


def test_another_activation_is_refused(tmp_path):
    model_of(**TINY, hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="hidden_act 'relu'"):
        load_backbone(tmp_path)


def cache_of(model, cache: Path, name: str, file: str) -> None:
    """A snapshot in the cache as huggingface_hub lays it out: blobs, links to them, and what `main` is."""
    made, repository, commit = cache / "made", cache / f"models--{name.replace('/', '--')}", "a" * 40
    save(model, made, file)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for path in made.iterdir():
        blob = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(repository / "blobs" / blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
    shutil.rmtree(made)


def offline(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run code where the hub is forbidden; huggingface_hub reads its settings when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-c", "from apt_edge.backbone.checkpoints import *\n" + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_name_on_the_hub_is_taken_from_the_cache_offline(file, tmp_path):
    model = model_of(**TINY)
    cache_of(model, tmp_path, "somebody/videomae-tiny", file)
    done = offline(
        "vit = load_backbone('somebody/videomae-tiny'); print(vit.config.frames, backbone_hash(vit))", tmp_path
    )
    model.save_pretrained(tmp_path / "same")
    assert done.stdout.split() == ["4", backbone_hash(load_backbone(tmp_path / "same"))], done.stderr


def test_a_name_that_is_not_cached_is_an_instruction_offline(tmp_path):
    done = offline("load_backbone('somebody/absent')", tmp_path)
    assert "somebody/absent is neither a path here, nor in the cache" in done.stderr
    assert "hf download somebody/absent" in done.stderr


def test_a_name_that_no_repository_can_have_is_refused(tmp_path):
    assert "the Hugging Face hub does not give it" in offline("load_backbone('somebody/a--b')", tmp_path).stderr


def test_without_huggingface_hub_a_name_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['huggingface_hub'] = None; load_backbone('somebody/absent')"
    assert "pip install 'apt-edge[train]'" in offline(code, tmp_path).stderr
