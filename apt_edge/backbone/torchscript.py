"""TorchScript archives, read without running or importing anything: their tensors, mapped from the file."""

from __future__ import annotations

import mmap
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_edge.backbone.harmless import Inert, executes
from apt_edge.errors import BackboneError

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MOST = 20_000  # attributes of a model; a module that holds itself has more than any number


def refuse_compressed(path: Path, entries: Iterable[zipfile.ZipInfo]) -> None:
    """A few bytes of a compressed entry can become any number of them, and nothing compressed can be mapped."""
    size = path.stat().st_size
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            raise BackboneError(
                f"{path} holds compressed entries, which PyTorch never writes",
                found=f"{entry.filename}: {entry.compress_size} bytes that become {entry.file_size}",
                fix="get the file as it was saved, or unpack it and pack it again without compression",
            )


def folder_of(names: list[str]) -> str:
    """The folder inside a TorchScript archive; empty for any other zip file."""
    folder = next((n.removesuffix("constants.pkl") for n in names if n.endswith("/constants.pkl")), "")
    return folder if f"{folder}data.pkl" in names else ""


class _Module:
    """A module of a TorchScript archive: attributes without code."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.attributes = dict(state)


class _ScriptUnpickler(pickle.Unpickler):
    """Builds tensors and attributes; every other name is refused."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str) -> None:
        pickled = archive.read(f"{folder}data.pkl")
        super().__init__(BytesIO(pickled))
        argument: Any
        for code, argument, _ in pickletools.genops(pickled):
            if "PUT" in code.name and argument > len(pickled):  # Python would make room for as many
                raise pickle.UnpicklingError(f"a memo of {argument} objects in {len(pickled)} bytes")
        self.path, self.archive, self.folder, self.storages = path, archive, folder, dict[str, Tensor]()
        with path.open("rb") as file:
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _strided
        if module == "torch.jit._pickle" and name.startswith(("build_", "restore_")):
            return Inert
        raise executes(self.path, [f"{module}.{name}"])

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage `("storage", dtype, key, place, numbers)` as a flat tensor."""
        _, dtype, key, *_ = pid
        if key not in self.storages:
            entry = self.archive.getinfo(f"{self.folder}data/{key}")
            name, extra = struct.unpack_from("<HH", self.mapped, entry.header_offset + 26)
            start, numbers = entry.header_offset + 30 + name + extra, entry.file_size // dtype.itemsize
            self.storages[key] = (
                torch.frombuffer(self.mapped, dtype=dtype, count=numbers, offset=start)
                if numbers
                else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def _strided(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(shape, stride, offset)


def read_torchscript(path: Path, archive: zipfile.ZipFile, folder: str) -> dict[str, Tensor]:
    """`{dotted name: tensor}` of every module in the archive."""
    tensors: dict[str, Tensor] = {}
    seen = 0

    def collect(module: _Module, prefix: str) -> None:
        nonlocal seen
        for name, value in module.attributes.items():
            if (seen := seen + 1) > MOST:
                raise pickle.UnpicklingError(f"more than {MOST} attributes")
            if isinstance(value, _Module):
                collect(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                tensors[prefix + name] = value

    ours = [entry for entry in archive.infolist() if entry.filename.startswith((f"{folder}data/", f"{folder}data.pkl"))]
    refuse_compressed(path, ours)
    collect(_ScriptUnpickler(path, archive, folder).load(), "")
    return tensors
