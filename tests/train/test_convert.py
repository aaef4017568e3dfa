"""Checkpoints become canonical backbones and packs with the logits of their own mathematics, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import backbone_hash, load_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.errors import BackboneError, ConfigError
from apt_edge.pack import PromptPack
from tests.apt_edge.foreign import SHORT, adaptformer, apt, beside, logits_of, official, pretrained, tokens_of
from tests.apt_edge.test_checkpoints_huggingface import TINY, model_of
from train.convert import convert
from train.tune import tune

ROOT = Path(__file__).parents[2]
CLIP = torch.randn((2, 3, 4, 32, 32), generator=torch.Generator().manual_seed(5))


def logits(report: dict) -> torch.Tensor:
    """What pack and canonical backbone give together, from their files."""
    pack = PromptPack.load(report["pack"])
    vit = load_backbone(report["backbone"])
    assert backbone_hash(vit) == report["sha256"] == pack.backbone.sha256
    assert pack.backbone.name == report["backbone"]
    with torch.no_grad():
        return folded_model(pack, vit)(CLIP)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal to 1e-4, and large enough for that to mean something."""
    assert expected.abs().max() > 0.3
    return bool((found - expected).abs().max() <= 1e-4)


@pytest.mark.parametrize(("wrapper", "half"), [("module", True), ("model", False)])
def test_a_fine_tuned_model_gives_its_logits(wrapper, half, tmp_path):
    state = official(5)
    state = {name: tensor.half() for name, tensor in state.items()} if half else state
    torch.save({wrapper: state, **beside(sampling_rate=2)}, tmp_path / "c.pth")
    report = convert(tmp_path / "c.pth")
    assert close(logits(report), logits_of(state, CLIP))
    pack = PromptPack.load(tmp_path / "c.pack.safetensors")
    assert (pack.method, pack.labels, pack.clip.sampling, pack.clip.stride) == ("linear", tuple("01234"), "dense", 2)
    assert pack.trainable_parameters == 2 * 128 + 5 * 128 + 5
    assert any("nothing names the 5 classes" in note for note in report["notes"])


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("start", "rows"), [(0, 3), (1, 2), (1, 1)])
def test_an_apt_checkpoint_gives_its_logits(start, rows, scaled, tmp_path):
    state = {name: tensor.half() for name, tensor in apt(rows=rows, scaled=scaled).items()}
    folder = tmp_path / "checkpoint-99"
    folder.mkdir()
    torch.save({"module": state, "epoch": 99}, folder / "mp_rank_00_model_states.pt")
    (tmp_path / "final_args.json").write_text(json.dumps({**SHORT, "prompt_start": start, "data_set": "SSV2"}))
    report = convert(folder)
    assert report["backbone"] == str(tmp_path / "checkpoint-99.safetensors")
    assert close(logits(report), logits_of(state, CLIP, norm="head_norm", start=start))
    bare = {name: tensor for name, tensor in state.items() if "prompt" not in name}
    assert not close(logits(report), logits_of(bare, CLIP, norm="head_norm"))  # the prompts matter
    pack = PromptPack.load(report["pack"])
    reparam = "max1" if scaled else "none"
    assert pack.method == "apt"
    assert pack.settings == {"tokens": 3, "start": start, "end": start + rows - 1, "reparam": reparam}
    assert pack.tokens == dict.fromkeys(range(start, start + rows), 3)
    assert pack.clip.sampling == "segments"
    assert any("without reparametrisation" in note for note in report["notes"]) != scaled


def test_a_prompts_method_of_the_pack_is_ours(tmp_path):
    from apt_edge.methods import METHODS

    torch.save({"model": apt(), **beside(prompt_start=0)}, tmp_path / "c.pth")
    report = convert(tmp_path / "c.pth")
    pack = PromptPack.load(report["pack"])
    config = load_backbone(report["backbone"]).config
    method = METHODS[pack.method](config, **pack.settings)
    assert pack.trainable_parameters == method.parameter_count() + 2 * 128 + 5 * 128 + 5


def test_adaptformers_batch_norm_is_folded(tmp_path):
    state = official(5)
    head = {"head.0.running_mean": torch.randn(128), "head.0.running_var": 0.5 + torch.rand(128)}
    moved = {name.replace("head.", "head.1."): tensor for name, tensor in adaptformer(state).items()}
    counted = head | {"head.0.num_batches_tracked": torch.tensor(7)}
    torch.save({"model": moved | counted, **beside()}, tmp_path / "c.pth")
    pooled = F.layer_norm(
        tokens_of(state, CLIP).mean(1), (128,), state["fc_norm.weight"].double(), state["fc_norm.bias"].double(), 1e-6
    )
    even = (pooled - head["head.0.running_mean"]) / (head["head.0.running_var"] + 1e-6) ** 0.5
    expected = even @ state["head.weight"].double().T + state["head.bias"]
    assert close(logits(convert(tmp_path / "c.pth")), expected)


def test_transformers_logits_come_back(tmp_path):
    model = model_of(**{**TINY, "num_labels": 3}, id2label={0: "push", 1: "pull", 2: "turn"})
    model.save_pretrained(tmp_path / "hf")
    report = convert(tmp_path / "hf")
    with torch.no_grad():
        assert close(logits(report), model(CLIP.transpose(1, 2)).logits)
    assert PromptPack.load(tmp_path / "hf.pack.safetensors").labels == ("push", "pull", "turn")


def test_class_names_of_something_something_mean_segments(tmp_path):
    names = ["Pushing [something] over", "Pulling [something]", "Turning [something]"]
    model_of(**{**TINY, "num_labels": 3}, id2label=dict(enumerate(names))).save_pretrained(tmp_path / "hf")
    report = convert(tmp_path / "hf")
    assert report["clip"]["sampling"] == "segments"
    assert any("Something-Something" in note for note in report["notes"])


def test_names_in_a_file_must_be_as_many_as_classes(tmp_path):
    torch.save({"model": official(3), **beside()}, tmp_path / "c.pth")
    (tmp_path / "labels.txt").write_text("push\npull\nturn\n")
    report = convert(tmp_path / "c.pth", labels=tmp_path / "labels.txt")
    assert PromptPack.load(report["pack"]).labels == ("push", "pull", "turn")
    (tmp_path / "few.txt").write_text("push\npull\n")
    with pytest.raises(ConfigError, match=r"2 names for 3 classes"):
        convert(tmp_path / "c.pth", tmp_path / "other.safetensors", labels=tmp_path / "few.txt")
    assert not list(tmp_path.glob("other*"))  # nothing is left half-written


@pytest.mark.parametrize(
    ("half", "flag", "stored"), [(False, False, "F32"), (False, True, "F16"), (True, False, "F16")]
)
def test_halves_stay_halves(half, flag, stored, tmp_path):
    state = official()
    torch.save({"module": {n: t.half() for n, t in state.items()} if half else state, **beside()}, tmp_path / "c.pth")
    report = convert(tmp_path / "c.pth", half=flag)
    with safe_open(report["backbone"], framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {stored}  # noqa: SIM118 (not a dict)
        assert file.metadata()["sha256"] == report["sha256"] == backbone_hash(load_backbone(report["backbone"]))


def test_a_backbone_alone_makes_no_pack(tmp_path):
    torch.save({"model": pretrained(official()), **beside()}, tmp_path / "c.pth")
    report = convert(tmp_path / "c.pth", heads=4, frames=8, size=64)
    assert report["pack"] is None
    assert (report["config"]["heads"], report["config"]["frames"], report["config"]["size"]) == (4, 8, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "c.safetensors"]


def test_prompts_without_a_classifier_make_no_pack_and_are_said(tmp_path):
    state = {name: tensor for name, tensor in apt().items() if not name.startswith("head")}
    torch.save({"model": state, **beside()}, tmp_path / "c.pth")
    report = convert(tmp_path / "c.pth")
    assert report["pack"] is None
    assert any("prompts are left out" in note for note in report["notes"])


def test_the_source_is_never_overwritten(tmp_path):
    model_of(**TINY).save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="is the checkpoint itself"):
        convert(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_the_tool_reports_in_words_and_in_json(tmp_path):
    torch.save({"model": apt(), **beside()}, tmp_path / "c.pth")
    command = [sys.executable, "-m", "train.convert", str(tmp_path / "c.pth")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for text in ("layout    videomae", "3 blocks of 128, 2 heads", "stands beside the weights", "(apt, 5 classes)"):
        assert text in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout)["used"]["blocks.0.norm1.weight"] == "blocks.0.norm1.weight"
    command[-1] = str(tmp_path / "absent.pth")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "fix:" in done.stderr


def test_what_cannot_be_read_leaves_nothing(tmp_path):
    state = official(5)
    del state["blocks.1.norm1.bias"]
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match="lacks 1 tensors"):
        convert(tmp_path / "c.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


MEASURE = """
import re, sys
from train.convert import convert
from train.tune import tune
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))
before = kilobytes("VmRSS")
convert(sys.argv[1], half=sys.argv[2] == "half")
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("file", "half", "stored"),
    [
        ("c.pth", "", torch.float32),
        ("old.pth", "half", torch.float32),
        ("model.safetensors", "", torch.float32),
        ("model.safetensors", "", torch.float16),
    ],
)
def test_memory_stays_below_one_and_a_half_files(file, half, stored, tmp_path):
    """Net of the interpreter and its libraries, which stand in memory before a file is opened."""
    if file == "model.safetensors":  # ViT-B in three projections a block, which have to be joined
        model_of(num_frames=16).to(stored).save_pretrained(tmp_path)
        source = tmp_path
    else:
        source = tmp_path / file
        state = official(400, width=768, depth=12, hidden=3072)
        torch.save({"model": state}, source, _use_new_zipfile_serialization=file == "c.pth")
    command = [sys.executable, "-c", MEASURE, str(source), half]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    bytes_of_file = (tmp_path / file).stat().st_size
    assert bytes_of_file > 85e6 * stored.itemsize
    assert int(done.stdout) <= 1.5 * bytes_of_file


def test_tuning_takes_a_checkpoint_as_it_is(task, tmp_path):
    torch.save({"model": pretrained(official()), **beside()}, tmp_path / "c.pth")
    report = convert(tmp_path / "c.pth")
    packs = []
    for place, source in enumerate((tmp_path / "c.pth", Path(report["backbone"]))):
        recipe = task.recipe(f"backbone='{source.as_posix()}'", "optim.epochs=1", f"cache.folder='{tmp_path}/{place}'")
        tune(recipe, tmp_path / f"run{place}")
        packs.append(PromptPack.load(tmp_path / f"run{place}" / "pack.safetensors"))
    assert [pack.backbone.name for pack in packs] == [str(tmp_path / "c.pth"), report["backbone"]]
    assert packs[0].backbone.sha256 == packs[1].backbone.sha256 == report["sha256"]
    for (first, second), (other, another) in zip(packs[0].kv.values(), packs[1].kv.values(), strict=True):
        assert (first == other).all()
        assert (second == another).all()


@pytest.mark.parametrize("there", ["foreign weights", "a text"])
def test_what_others_wrote_is_never_overwritten(there, tmp_path):
    torch.save({"model": official(5), **beside()}, tmp_path / "best.pth")
    for name in ("best.safetensors", "best.pack.safetensors"):
        if there == "a text":
            (tmp_path / name).write_text("mine")
        else:
            save_file({"x": torch.ones(3)}, tmp_path / name, {"format": "pt"})
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ConfigError, match=r"is there already(.|\n)*--out FILE"):
            convert(tmp_path / "best.pth")
        assert (tmp_path / name).read_bytes() == before
        (tmp_path / name).unlink()
    assert convert(tmp_path / "best.pth") == convert(tmp_path / "best.pth")  # its own it writes again


def test_the_pack_of_a_replaced_backbone_is_taken_away(tmp_path):
    for seed, classes in ((0, 5), (1, 0)):
        torch.save({"model": official(classes, seed=seed), **beside()}, tmp_path / "c.pth")
        report = convert(tmp_path / "c.pth")
        assert (tmp_path / "c.pack.safetensors").exists() == bool(classes)
        assert any("was removed" in note for note in report["notes"]) != bool(classes)


def test_what_is_not_a_number_is_not_converted(tmp_path):
    for name in ("blocks.0.norm1.weight", "head.bias"):
        state = official(5)
        state[name][1] = float("nan")
        torch.save(state, tmp_path / "c.pth")
        with pytest.raises(BackboneError, match="holds what is not a number"):
            convert(tmp_path / "c.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def test_names_of_classes_need_a_classifier(tmp_path):
    torch.save(official(), tmp_path / "c.pth")
    (tmp_path / "labels.txt").write_text("push\n")
    with pytest.raises(ConfigError, match="leave --labels out"):
        convert(tmp_path / "c.pth", labels=tmp_path / "labels.txt")
