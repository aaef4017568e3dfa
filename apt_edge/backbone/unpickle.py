"""Files of `torch.save` and TorchScript archives, read without executing anything that they name.

torch's own `weights_only` reader does the work, with the few more names of `harmless`.
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from apt_edge.backbone.harmless import HARMLESS, executes, survey
from apt_edge.backbone.torchscript import folder_of, read_torchscript, refuse_compressed
from apt_edge.errors import BackboneError

ZIP = b"PK\x03\x04"
READABLE = 2  # the pickle protocol that torch writes; its reader knows few instructions of later ones
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    OSError,  # a place before the beginning of the file
)


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, its tensors mapped from the file where the format allows; of TorchScript the tensors.

    Raises:
        BackboneError: the file could execute code, would take more memory than its size, or is cut, damaged or of
            another kind.
    """
    zipped = _is_zip(path)
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if folder := folder_of(archive.namelist()):
                    return read_torchscript(path, archive, folder)
                _pickled(path, archive)
                refuse_compressed(path, archive.infolist())
        allowed: list[Any] = [(kind, name) for name, kind in HARMLESS.items()]
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols and old formats: what matters becomes a refusal
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        raise _reason(path, error) from None


def _reason(path: Path, error: Exception) -> BackboneError:
    """Why torch's reader gave up: what the pickle names, its protocol, or what the reader says."""
    names, protocol = _survey(path)
    if names:
        return executes(path, names)
    if protocol > READABLE:
        return BackboneError(
            f"{path} is written in pickle protocol {protocol}, which the reader that executes nothing does not know",
            fix="if you trust the file, save its tensors again: torch.save, without pickle_protocol",
        )
    said = str(error).rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]
    kind = type(error).__name__
    return BackboneError(
        f"{path} is not a readable checkpoint",
        found=kind if "weights_only" in said or not said else f"{said} ({kind})",
        fix="it is cut, damaged or of another kind: copy it again",
    )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def _survey(path: Path) -> tuple[list[str], int]:
    """`harmless.survey` of the pickle in an archive, or of the file itself; nothing when the archive is damaged."""
    if not _is_zip(path):
        with path.open("rb") as file:
            return survey(file)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_pickled(path, archive)) as entry:
            return survey(entry)
    except UNREADABLE:
        return [], 0


def _pickled(path: Path, archive: zipfile.ZipFile) -> str:
    """The entry of an archive that says what its tensors are."""
    names = archive.namelist()
    found = next((name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if found is None:
        raise BackboneError(
            f"{path} is a zip archive, and none that PyTorch wrote",
            found=", ".join(names[:6]) or "nothing in it",
            fix="unpack it and give the checkpoint inside",
        )
    return found
