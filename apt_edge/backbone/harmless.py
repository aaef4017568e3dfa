"""What a pickle may name: parts of tensors, and a few classes that can do nothing; the rest is refused by name.

What published checkpoints hold beside tensors is on a list: most of it becomes an `Inert`, which keeps nothing and does
nothing, and no class of another package is ever imported.
"""

from __future__ import annotations

import pickletools
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from apt_edge.errors import BackboneError


class Inert:
    """What stands where a checkpoint names a class of another package: nothing."""

    def __init__(self, *_: Any) -> None:
        """Whatever it is made of is dropped."""

    def __setstate__(self, _: Any) -> None:
        """Whatever it is filled with is dropped."""


def _dictionary(*_: Any) -> dict[Any, Any]:
    """For a defaultdict: torch's reader fills plain dictionaries alone."""
    return {}


# Loss scalers, paths, dates and numbers of numpy among the run's arguments, factories of a defaultdict.
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
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "decimal.Decimal",
    *(f"builtins.{name}" for name in ("list", "dict", "tuple", "int", "float", "str", "bool")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_")),
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
)
HARMLESS: dict[str, Any] = {
    **dict.fromkeys(INERT, Inert),
    "argparse.Namespace": Namespace,
    "types.SimpleNamespace": SimpleNamespace,
    "builtins.frozenset": frozenset,
    "collections.defaultdict": _dictionary,
}
# What torch's own reader knows, and what a TorchScript archive consists of.
OF_TENSORS = re.compile(
    r"torch\.(\w*Storage|Size|device|Tensor|bool|(b?float|q?u?int|complex|bits)\d\w*|per_\w+)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch\.serialization\._get_layout|torch\.storage\.(Typed|Untyped)Storage"
    r"|__torch__\.\S+|torch\.jit\._pickle\.\w+"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|set|complex)"
)
MODULES = "torch.nn.modules."
PICKLES = 5  # in a file of torch.save's older format: a number, a version, the machine, what was saved, storages


def executes(path: Path, names: list[str]) -> BackboneError:
    """The refusal of a file that names what is not harmless, `names` in their order there."""
    some = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
    if any(name.startswith(MODULES) for name in names):
        return BackboneError(
            f"{path} holds a whole module, whose class would have to be imported",
            found=f"it names {some}",
            fix="save its state_dict where the class is installed: torch.save(model.state_dict(), ...)",
        )
    return BackboneError(
        f"{path} names {names[0]}, which is not among the harmless classes: reading it could execute code",
        found=f"it names {some}",
        fix="get the weights as .safetensors, or, if you trust the file, save its plain state_dict again",
    )


def survey(file: IO[bytes]) -> tuple[list[str], int]:
    """Of a file's pickles, executed by nobody: what they name that is not harmless, and their highest protocol."""
    names: dict[str, None] = {}
    protocol = 0
    try:
        for _ in range(PICKLES):
            for name in _names(file):
                if isinstance(name, int):
                    protocol = max(protocol, name)
                elif name not in HARMLESS and not OF_TENSORS.fullmatch(name):
                    names[name] = None
    except (ValueError, IndexError, OverflowError, MemoryError):  # the end, or no pickle from here on
        pass
    return list(names), protocol


def _names(file: IO[bytes]) -> Iterator[str | int]:
    """Every global of one pickle as `module.name`, and its protocol as a number."""
    texts: list[str] = ["?", "?"]  # the last two on the stack, as far as one sees without computing it
    memo: dict[int, str] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(file):
        if code.name == "PROTO":
            yield argument
        elif code.name in ("GLOBAL", "INST"):
            yield _today(argument.replace(" ", ".", 1))
        elif code.name == "STACK_GLOBAL":
            yield _today(".".join(texts))
        elif "UNICODE" in code.name or "STRING" in code.name:
            texts = [texts[1], str(argument)]
        elif code.name == "MEMOIZE":
            memo[len(memo)] = texts[1]
        elif "PUT" in code.name:
            memo[argument] = texts[1]
        elif "GET" in code.name:
            texts = [texts[1], memo.get(argument, "?")]


def _today(name: str) -> str:
    """Python 2's names, which protocols up to 2 write."""
    return re.sub(r"^__builtin__\.", "builtins.", re.sub(r"^copy_reg\.", "copyreg.", name))
