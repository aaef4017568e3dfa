"""What a file is by its first bytes, when it is no checkpoint: a pointer, a web page, an archive, another model."""

from __future__ import annotations

import tarfile
from pathlib import Path

from apt_edge.errors import BackboneError

HEAD = 512  # bytes; a block of a tar
UNPACK = "unpack it and give the checkpoint inside"
OTHER = "give the PyTorch or safetensors checkpoint of the model"
AGAIN = "download the file itself: on the hub its address has /resolve/ in it, not /blob/, or use `hf download`"
SIGNATURES = (
    (b"version https://git-lfs", "a pointer of Git LFS; the weights themselves were not fetched",
     "run `git lfs install` and `git lfs pull` in its folder, or fetch it with `hf download`"),
    (b"\x1f\x8b", "compressed by gzip", UNPACK),
    (b"BZh", "compressed by bzip2", UNPACK),
    (b"\xfd7zXZ\0", "compressed by xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\x89PNG", "a picture", OTHER),
    (b"\xff\xd8\xff", "a picture", OTHER),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", OTHER),
    (b"\x93NUMPY", "an array of numpy", OTHER),
    (b"GGUF", "a GGUF file", OTHER),
    (b"%PDF", "a PDF", OTHER),
)  # fmt: skip


def is_safetensors(path: Path) -> bool:
    """By the first bytes: eight of the header's length, which is far below a terabyte, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[5:] == b"\0\0\0{"


def refuse_foreign(path: Path) -> None:
    """Raise BackboneError when the first bytes are known to be those of something else, with what to do."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    kind, fix = _kind(head)
    if kind and not is_safetensors(path):
        raise BackboneError(f"{path} holds no weights: it is {kind}", fix=fix)


def _kind(head: bytes) -> tuple[str, str]:
    for start, kind, fix in SIGNATURES:
        if head.startswith(start):
            return kind, fix
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page or another text in angle brackets", AGAIN
    if text.startswith((b'{"', b"{ ", b"{\n", b"{\r", b"{}")):
        return "JSON", "give the file of the weights, the folder, or an index whose name ends in .index.json"
    # Protocol buffers have no signature: field 1 is the version of the format, then a name, a text or the graph.
    if head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        return "an ONNX model", "give the checkpoint that it was exported from; an export takes no ONNX"
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.HeaderError:
        return "", ""
    return "a .tar archive, or a checkpoint of PyTorch from before 2017", UNPACK + "; an old checkpoint: save it again"
