"""What a user may point at: a file, a folder or a name on the hub; its tensors, and what is known beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apt_edge.backbone import hub
from apt_edge.backbone.kinds import is_safetensors, refuse_foreign
from apt_edge.backbone.unpickle import read_pickle
from apt_edge.errors import BackboneError

WRAPPERS = ("module", "model", "state_dict")  # DeepSpeed's first: it keeps the run's own things beside it
DEEPSPEED = "mp_rank_00_model_states.pt"
ARGUMENTS = "final_args.json"
# Integers stand beside the weights, as counters and indices.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DENSE = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
    if path.is_dir() and str(source):
        return _in_folder(path)
    if hub.is_hub_name(str(source)):
        return hub.fetch(str(source))
    name, at, revision = str(source).rpartition("@")
    if at and hub.is_hub_name(name):
        raise BackboneError(
            "revisions of a repository on the hub are not supported",
            found=str(source),
            fix=f"run `hf download {name} --revision {revision} --local-dir FOLDER` and give that folder",
        )
    if not str(source):
        raise BackboneError("no backbone is named", fix="give a checkpoint's file or folder, or an embedded one: nano")
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
    else:
        refuse_foreign(path)
        if path.suffix == ".safetensors" or is_safetensors(path):
            tensors, header = read_safetensors(path)
        else:
            tensors, beside, args = _unwrapped(path, read_pickle(path))
        _refuse_sparse(path, tensors)
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


def _refuse_sparse(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Whatever is no plain array of numbers: meta, sparse, nested, complex, quantised, 8 bits."""
    for name, tensor in tensors.items():
        kind = next((kind for kind in ("meta", "sparse", "nested", "quantized") if getattr(tensor, f"is_{kind}")), "")
        if kind or tensor.layout != torch.strided or tensor.dtype not in DENSE:
            raise BackboneError(
                f"{path} holds tensors that are no plain arrays of numbers",
                found=f"{name}: {kind or tensor.layout}, {tensor.dtype}",
                fix="save the weights as dense float16, bfloat16, float32 or float64",
            )


def _unwrapped(path: Path, tree: Any) -> tuple[dict[str, Tensor], list[str], Mapping[str, Any]]:
    """Tensors by name, names of what stands beside them, and the arguments of the run when they are kept there."""
    wrappers = _wrappers(tree)
    if wrappers is None:
        some = f" of {', '.join(map(str, list(tree)[:6]))}" if isinstance(tree, Mapping) else ""
        raise BackboneError(
            f"{path} holds no tensors by name",
            found=f"a {type(tree).__name__}{some}",
            fix=f"PyTorch's tensors (not numpy's arrays) must stand in the file itself or under {', '.join(WRAPPERS)}: "
            "save them so with torch.save",
        )
    beside: list[str] = []
    args: Mapping[str, Any] = {}
    for wrapper in wrappers:
        kept = tree.get("args")
        args = args or (kept if isinstance(kept, Mapping) else getattr(kept, "__dict__", {}))
        beside += [str(name) for name in tree if name != wrapper]
        tree = tree[wrapper]
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
    return tensors, beside + [str(name) for name in tree if str(name) not in tensors], args


def _wrappers(tree: Any, most: int = len(WRAPPERS)) -> list[str] | None:
    """The names that lead to the tensors, at most so many one in the other; None when nothing does."""
    if not isinstance(tree, Mapping):
        return None
    for name in WRAPPERS if most else ():
        if (inner := _wrappers(tree.get(name), most - 1)) is not None:
            return [name, *inner]
    return [] if any(isinstance(value, Tensor) for value in tree.values()) else None


def _json(path: Path) -> Mapping[str, Any]:
    """A JSON object, empty when there is no such file; raises BackboneError when it is something else."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is not readable JSON", found=str(error), fix="copy it again") from None
    if not isinstance(data, dict):
        raise BackboneError(f"{path} holds no settings", found=type(data).__name__, fix="copy it again")
    return data
