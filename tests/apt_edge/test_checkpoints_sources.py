"""What a user may point at by mistake: files of other kinds, indices that lead elsewhere, mistyped names."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import backbone_hash, load_backbone
from apt_edge.backbone.sources import read
from apt_edge.errors import BackboneError
from tests.apt_edge.foreign import SHORT, official

ROOT = Path(__file__).parents[2]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"


def written(write, *arguments, **settings) -> bytes:
    """What `write` writes into a file."""
    file = io.BytesIO()
    write(file, *arguments, **settings)
    return file.getvalue()


def onnx_model() -> bytes:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "g", [value], [])
    return onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString()


def tar(file, kind) -> None:
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))


KINDS = {
    "lfs": (lambda: POINTER, "pointer of Git LFS(.|\n)*git lfs pull"),
    "page": (lambda: b"\n<!DOCTYPE html><html>Virus scan warning</html>", "web page(.|\n)*/resolve/"),
    "json": (lambda: b'{"error": "Entry not found"}', "JSON"),
    "onnx": (onnx_model, "ONNX model(.|\n)*takes no ONNX"),
    "png": (lambda: written(Image.new("RGB", (8, 8)).save, "png"), "picture"),
    "jpeg": (lambda: written(Image.new("RGB", (8, 8)).save, "jpeg"), "picture"),
    "gzip": (lambda: gzip.compress(b"weights" * 9), "gzip(.|\n)*unpack it"),
    "bzip2": (lambda: bz2.compress(b"weights" * 9), "bzip2(.|\n)*unpack it"),
    "xz": (lambda: lzma.compress(b"weights" * 9), "xz(.|\n)*unpack it"),
    "tar": (lambda: written(tar, tarfile.PAX_FORMAT), r"\.tar archive(.|\n)*unpack it"),
    "gnu tar": (lambda: written(tar, tarfile.GNU_FORMAT), r"\.tar archive(.|\n)*unpack it"),
    "npy": (lambda: written(np.save, np.ones(3)), "array of numpy"),
}


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_named_and_say_what_to_do(kind, name, tmp_path):
    make, expected = KINDS[kind]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(BackboneError, match=f"holds no weights: it is (an? |compressed by )?{expected}") as caught:
        load_backbone(tmp_path / name)
    assert "weights_only" not in str(caught.value)


def test_a_clone_of_the_hub_without_its_weights_says_so(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(BackboneError, match="git lfs pull"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}')
    (tmp_path / "a.safetensors").write_bytes(POINTER)
    with pytest.raises(BackboneError, match=r"a\.safetensors holds no weights(.|\n)*git lfs pull"):
        load_backbone(tmp_path)


def test_another_zip_archive_is_none_of_pytorch(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("c.pth", b"x")
    with pytest.raises(BackboneError, match=r"none that PyTorch wrote(.|\n)*c\.pth(.|\n)*unpack it"):
        load_backbone(tmp_path / "c.zip")


@pytest.mark.parametrize("length", [0x8B1F, 0x1208])
def test_a_header_whose_length_looks_like_another_kind_is_safetensors_all_the_same(length, tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "short.safetensors")
    data = (tmp_path / "short.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    (tmp_path / "c.bin").write_bytes(length.to_bytes(8, "little") + data[8:end].ljust(length) + data[end:])
    assert torch.equal(read(tmp_path / "c.bin").tensors["w"], torch.ones(2))


@pytest.mark.parametrize(
    "files",
    [
        ["model.safetensors.index.json"],
        ["../other.safetensors"],
        ["/etc/passwd"],
        ["sub/a.bin"],
        ["..\\a.bin"],
        ["notes.txt"],
        [],
        [3],
        [["a.bin"]],
    ],
)
def test_an_index_names_plain_files_beside_it(files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    weights = {str(index): name for index, name in enumerate(files)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(BackboneError, match=r"not an index of weights|files of weights beside it"):
        load_backbone(folder)


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    for name in ("model.safetensors.index.json", "config.json"):
        (tmp_path / name).write_text("[" * 200_000)
        torch.save(official(), tmp_path / "c.pth")
        with pytest.raises(BackboneError, match="copy it again"):
            load_backbone(tmp_path if "index" in name else tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("meta", lambda tensor: tensor.to("meta")),
        ("sparse", lambda tensor: tensor.to_sparse()),
        ("sparse_csr", lambda tensor: tensor.flatten(1).to_sparse_csr()),
        ("complex64", lambda tensor: tensor.to(torch.complex64)),
        ("float8_e4m3fn", lambda tensor: tensor.to(torch.float8_e4m3fn)),
        ("qint8", lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers_are_named(kind, change, tmp_path):
    state = official()
    name = "blocks.1.mlp.fc1.weight"
    torch.save({"model": state | {name: change(state[name])}}, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=rf"no plain arrays of numbers(.|\n)*fc1\.weight: .*{kind}"):
        load_backbone(tmp_path / "c.pth")
    if "float8" in kind:
        save_file(state | {name: change(state[name])}, tmp_path / "c.safetensors")
        with pytest.raises(BackboneError, match=rf"fc1\.weight: .*{kind}"):
            load_backbone(tmp_path / "c.safetensors")


def test_counters_beside_the_weights_are_no_weights(tmp_path):
    torch.save({"w": torch.ones(2), "steps": torch.tensor(3), "index": torch.ones(2, dtype=torch.bool)}, tmp_path / "c")
    assert read(tmp_path / "c").tensors.keys() == {"w", "steps", "index"}


@pytest.mark.parametrize("empty", [{}, {"epoch": 3}, None, {"model": {}}])
def test_a_wrapper_without_tensors_is_not_the_one(empty, tmp_path):
    torch.save({"module": empty, "model": official(), "args": SHORT}, tmp_path / "c.pth")
    torch.save({"model": official(), "args": SHORT}, tmp_path / "plain.pth")
    assert backbone_hash(load_backbone(tmp_path / "c.pth")) == backbone_hash(load_backbone(tmp_path / "plain.pth"))
    assert "module" in read(tmp_path / "c.pth").beside


def test_unknown_wrappers_and_arrays_of_numpy_say_what_is_known(tmp_path):
    itself: dict = {"epoch": 3}
    itself["model"] = itself
    arrays = {"model": {name: tensor.numpy() for name, tensor in official().items()}}
    for tree in ({"model_state": official()}, arrays, itself):
        torch.save(tree, tmp_path / "c.pth")
        with pytest.raises(BackboneError, match=r"no tensors by name(.|\n)*not numpy(.|\n)*module, model, state_dict"):
            load_backbone(tmp_path / "c.pth")


def test_no_name_is_not_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError, match="no backbone is named"):
        load_backbone("")


def test_a_revision_says_how_to_fetch_it():
    with pytest.raises(BackboneError, match=r"revisions(.|\n)*hf download owner/name --revision v1\.0"):
        load_backbone("owner/name@v1.0")


def test_a_mistyped_folder_is_not_only_a_name_on_the_hub(tmp_path):
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    code = """
from pathlib import Path
from apt_edge.backbone.sources import BackboneError, locate
for step in range(2):
    try:
        locate("checkpoints/videomae")
    except BackboneError as error:
        print(error.fix)
    Path("checkpoints/videomae-s").mkdir(parents=True, exist_ok=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    absent, present = done.stdout.splitlines()
    hub = "if a name on the hub: run `hf download checkpoints/videomae`"
    assert absent.startswith(f"if a path is meant: there is no folder checkpoints here; {hub}")
    assert present.startswith(f"if a path is meant: the folder checkpoints here holds videomae-s; {hub}")
