"""What a user may point at: a file, a folder or a name on the hub; its tensors, and what is known beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from apt_edge.backbone import hub
from apt_edge.backbone.unpickle import read_pickle
from apt_edge.errors import BackboneError

WRAPPERS = ("module", "model", "state_dict")  # DeepSpeed's first: it keeps the run's own things beside it
DEEPSPEED = "mp_rank_00_model_states.pt"
ARGUMENTS = "final_args.json"


@dataclass(frozen=True)
class Stored:
    """What was found.

    Attributes:
        path: the file, or the index of its parts.
        tensors: by their names, wrappers taken off.
        beside: names of what else the file holds.
        header: metadata of a safetensors file.
        config: config.json beside the file.
        args: arguments of the run that wrote it, from final_args.json or from the file.
    """

    path: Path
    tensors: dict[str, Tensor]
    beside: list[str] = field(default_factory=list)
    header: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)


def locate(source: str | Path) -> Path:
    """The file of weights, or the index of its parts.

    Raises:
        BackboneError: there is none, with what to give instead.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    if hub.is_hub_name(str(source)):
        return hub.fetch(str(source))
    raise BackboneError(
        f"there are no backbone weights at {path}",
        fix="give a checkpoint's file or folder, a name on the Hugging Face hub (owner/name), or an embedded one: nano",
    )


def _in_folder(folder: Path) -> Path:
    """The weights in a folder of Hugging Face's or DeepSpeed's."""
    for name in (*hub.WEIGHTS, DEEPSPEED):
        if (folder / name).is_file():
            break
    else:
        here = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise BackboneError(
            f"the folder {folder} holds no weights that are known by their name",
            found=here,
            fix=f"give the file itself, or a folder with {hub.WEIGHTS[0]}, {hub.WEIGHTS[2]} or {DEEPSPEED}",
        )
    others = sorted(path.name for path in folder.glob("mp_rank_*_model_states.pt") if path.name != DEEPSPEED)
    if name == DEEPSPEED and others:
        raise BackboneError(
            f"the model in {folder} is split over several files",
            found=", ".join([DEEPSPEED, *others]),
            fix="save it without model parallelism",
        )
    return folder / name


def read(path: Path) -> Stored:
    """Tensors of a located file, mapped rather than read where its format allows.

    Raises:
        BackboneError: the file is cut or damaged, would execute code, or holds no tensors.
    """
    beside: list[str] = []
    header: Mapping[str, str] = {}
    args: Mapping[str, Any] = {}
    if path.name.endswith(".index.json"):
        tensors: dict[str, Tensor] = {}
        for name in hub.shards(path):
            if not (path.parent / name).is_file():
                raise BackboneError(
                    f"{path.name} names a file that is not there", found=str(path.parent / name), fix="copy it too"
                )
            tensors |= read(path.parent / name).tensors
    elif path.suffix == ".safetensors" or _is_safetensors(path):
        tensors, header = read_safetensors(path)
    else:
        tensors, beside, args = _unwrapped(path, read_pickle(path))
    return Stored(
        path=path,
        tensors=tensors,
        beside=beside,
        header=header,
        config=_json(path.with_name(hub.CONFIG)),
        args=_json(path.with_name(ARGUMENTS)) or _json(path.absolute().parent.parent / ARGUMENTS) or args,
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata; raises BackboneError when the file is cut or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BackboneError(
            f"{path} is not a readable safetensors file", found=str(error), fix="it is cut or damaged: copy it again"
        ) from None


def _is_safetensors(path: Path) -> bool:
    """By its first bytes: eight of the header's length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _unwrapped(path: Path, tree: Any) -> tuple[dict[str, Tensor], list[str], Mapping[str, Any]]:
    """Tensors by name, names of what stands beside them, and the arguments of the run when they are kept there."""
    beside: list[str] = []
    args: Mapping[str, Any] = {}
    while isinstance(tree, Mapping):
        wrapper = next((name for name in WRAPPERS if isinstance(tree.get(name), Mapping)), None)
        if wrapper is None:
            tensors = {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
            if not tensors:
                break
            return tensors, beside + [str(name) for name in tree if str(name) not in tensors], args
        kept = tree.get("args")
        args = args or (kept if isinstance(kept, Mapping) else getattr(kept, "__dict__", {}))
        beside += [str(name) for name in tree if name != wrapper]
        tree = tree[wrapper]
    found = f"a {type(tree).__name__}" + (
        f" of {', '.join(map(str, list(tree)[:6]))}" if isinstance(tree, dict) else ""
    )
    raise BackboneError(f"{path} holds no tensors by name", found=found, fix="give a checkpoint of a model")


def _json(path: Path) -> Mapping[str, Any]:
    """A JSON object, empty when there is no such file; raises BackboneError when it is something else."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackboneError(f"{path} is not readable JSON", found=str(error), fix="copy it again") from None
    if not isinstance(data, dict):
        raise BackboneError(f"{path} holds no settings", found=type(data).__name__, fix="copy it again")
    return data
