"""Files of `torch.save` and TorchScript archives, read without executing anything that they name.

torch's own `weights_only` reader does the work. What published checkpoints hold beside tensors is on a list by name:
each becomes an `Inert`, which keeps nothing and does nothing, and no class of another package is ever imported.
Whatever is not on the list is refused.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_edge.errors import BackboneError


class Inert:
    """What stands where a checkpoint names a class of another package: nothing."""

    def __init__(self, *_: Any) -> None:
        """Whatever it is made of is dropped."""

    def __setstate__(self, _: Any) -> None:
        """Whatever it is filled with is dropped."""


# Names of what others keep beside the weights: loss scalers, paths and numbers of numpy among the run's arguments.
INERT = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    *(
        f"pathlib{inner}.{kind}"
        for inner in ("", "._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_")),
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
)
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
UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError)


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, its tensors mapped from the file where the format allows; of TorchScript the tensors.

    Raises:
        BackboneError: the file would execute code, or is cut, damaged or of another kind.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped and (archive := _torchscript(path)):
            return _read_torchscript(path, archive)
        allowed: list[Any] = [argparse.Namespace, *((Inert, name) for name in INERT)]
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        if name := _refused(str(error)):
            raise BackboneError(
                f"{path} holds more than numbers: reading it would execute code, so it was not read",
                found=f"it names {name}",
                fix="get the weights as .safetensors, or, if you trust the file, save its plain state_dict again",
            ) from None
        raise BackboneError(
            f"{path} is not a readable checkpoint",
            found=str(error).rpartition("WeightsUnpickler error: ")[2].split("\n")[0] or type(error).__name__,
            fix="it is cut, damaged or of another kind: copy it again",
        ) from None


def _refused(message: str) -> str:
    """The global that torch's reader, or ours, did not allow."""
    found = re.search(r"(?:GLOBAL|unrecognized function) (\S*[^.\s])(?: was not| whose module|\n|$)", message)
    return found.group(1) if found else ""


def _torchscript(path: Path) -> str:
    """The folder inside a TorchScript archive; empty for any other zip file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    folder = next((n.removesuffix("constants.pkl") for n in names if n.endswith("/constants.pkl")), "")
    return folder if f"{folder}data.pkl" in names else ""


class _Module:
    """A module of a TorchScript archive: attributes without code."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.attributes = dict(state)


class _ScriptUnpickler(pickle.Unpickler):
    """Builds tensors and attributes; every other name is refused."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(archive.open(f"{folder}data.pkl"))
        self.archive, self.folder, self.storages = archive, folder, dict[str, Tensor]()

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
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage `("storage", dtype, key, place, numbers)` as a flat tensor."""
        _, dtype, key, *_ = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype)
        return self.storages[key]


def _strided(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(shape, stride, offset)


def _read_torchscript(path: Path, folder: str) -> dict[str, Tensor]:
    """`{dotted name: tensor}` of every module in the archive."""
    tensors: dict[str, Tensor] = {}

    def collect(module: _Module, prefix: str) -> None:
        for name, value in module.attributes.items():
            if isinstance(value, _Module):
                collect(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                tensors[prefix + name] = value

    with zipfile.ZipFile(path) as archive:
        root = _ScriptUnpickler(archive, folder).load()
    collect(root, "")
    return tensors
