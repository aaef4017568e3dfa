"""PromptPack: what a training run leaves behind - folded keys and values, head, labels, input contract - in one file.

Needs numpy and safetensors only. Shapes: n prompts of a block, h in {1, heads}, d head width, C width, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from apt_edge.clip import ClipSpec
from apt_edge.errors import AptEdgeError, PackError
from apt_edge.files import atomic

FORMAT = "apt-edge pack 1"
HEAD_TENSORS = ("norm.weight", "norm.bias", "weight", "bias")


class FoldedKV(NamedTuple):
    """Constant keys and values of one block, float32 `[h, n, d]`; h is 1 when the heads share them."""

    key: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class BackboneRef:
    """Which backbone a pack belongs to: a name for people, the hash for the check."""

    name: str
    sha256: str


@dataclass(frozen=True)
class PromptPack:
    """A tuned task, ready for export.

    Attributes:
        kv: constants of each prompted block.
        form: how the backbone is changed by what could not be folded (`backbone.forms`); empty when it is not.
        changes: float32 tensors of that form, named `override.*` or `module.*`.
        head: `norm.weight`, `norm.bias` `[C]`, `weight` `[K, C]`, `bias` `[K]`, float32.
        method: name of the method that was trained, and `settings` its arguments; nothing after training reads them.
        clip: the input contract.
        labels: class names, in the order of the head's rows.
        backbone: the backbone that the constants were trained with.
        trainable_parameters: how many numbers were trained (scales included, which folding removes).
        training: summary of the run.
        rounding: by how much a file in half precision has changed a key or value at most.
    """

    kv: Mapping[int, FoldedKV]
    head: Mapping[str, np.ndarray]
    method: str
    settings: Mapping[str, Any]
    clip: ClipSpec
    labels: tuple[str, ...]
    backbone: BackboneRef
    trainable_parameters: int
    training: Mapping[str, Any] = field(default_factory=dict)
    form: str = ""
    changes: Mapping[str, np.ndarray] = field(default_factory=dict)
    rounding: float = 0.0

    def __post_init__(self) -> None:
        missing = [name for name in HEAD_TENSORS if name not in self.head]
        if missing:
            raise PackError(f"the pack has no head tensor {', '.join(missing)}")
        if len(self.head["weight"]) != len(self.labels):
            raise PackError(f"the head has {len(self.head['weight'])} rows for {len(self.labels)} labels")
        for block, (key, value) in self.kv.items():
            if key.ndim != 3 or key.shape != value.shape:
                raise PackError(f"block {block}: key {key.shape} and value {value.shape} must both be [h, n, d]")

    @property
    def tokens(self) -> dict[int, int]:
        """Prompts of each prompted block."""
        return {block: kv.key.shape[1] for block, kv in sorted(self.kv.items())}

    def check_backbone(self, name: str, sha256: str, pack_path: str | Path = "the pack") -> None:
        """Raises PackError when the backbone's hash is not the one that this pack was trained with."""
        if sha256 != self.backbone.sha256:
            raise PackError(
                "the pack and the backbone do not belong together",
                found=f"{pack_path} was trained on {self.backbone.name} ({self.backbone.sha256[:12]}), "
                f"{name} is {sha256[:12]}",
                fix="give the backbone that the pack was trained on, or tune again on this one",
            )

    def save(self, path: str | Path, half: bool = False) -> None:
        """Write one safetensors file, whole or not at all; equal packs are equal files.

        Args:
            path: the file.
            half: keys and values in float16; the head and all changes stay float32.

        Raises:
            PackError: a key or value is beyond float16.
        """
        tensors = {f"head.{name}": array for name, array in self.head.items()} | dict(self.changes)
        for block, (key, value) in self.kv.items():
            tensors |= {f"kv.{block}.key": key, f"kv.{block}.value": value}
        tensors = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
        rounding = self.rounding
        if half:
            tensors, lost = _halved(tensors)
            rounding = max(rounding, lost)
        header = {
            "format": FORMAT,
            "method": self.method,
            "form": self.form,
            "settings": json.dumps(dict(self.settings)),
            "clip": self.clip.to_json(),
            "labels": json.dumps(list(self.labels)),
            "backbone.name": self.backbone.name,
            "backbone.sha256": self.backbone.sha256,
            "trainable_parameters": str(self.trainable_parameters),
            "training": json.dumps(dict(self.training)),
            **({"rounding": repr(rounding)} if rounding else {}),
        }
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata=header)
            _sort_metadata(temporary)

    @classmethod
    def load(cls, path: str | Path) -> PromptPack:
        """Read a pack; raises PackError when the file is missing, cut, not a pack, or its numbers are not finite."""
        path = Path(path)
        if not path.is_file():
            raise PackError(f"there is no pack at {path}", fix="give the pack.safetensors of a finished training run")
        try:
            with safe_open(path, framework="np") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            tensors = {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}
        except (SafetensorError, OSError) as error:
            fix = "the file is cut or damaged: copy it again"
            raise PackError(f"{path} is not a readable pack", found=str(error), fix=fix) from None
        if header.get("format") != FORMAT:
            raise PackError(f"{path} is not a prompt pack", found=f"format {header.get('format')!r}, not {FORMAT!r}")
        for name, array in tensors.items():
            if not np.isfinite(array).all():
                fix = "tune again, with a smaller learning rate if the loss was not finite"
                raise PackError(f"{path} holds numbers that are not finite", found=name, fix=fix)
        try:
            return cls(
                kv=_folded(tensors),
                head={name: tensors[f"head.{name}"] for name in HEAD_TENSORS},
                method=header["method"],
                settings=json.loads(header["settings"]),
                clip=ClipSpec.from_dict(json.loads(header["clip"])),
                labels=tuple(json.loads(header["labels"])),
                backbone=BackboneRef(header["backbone.name"], header["backbone.sha256"]),
                trainable_parameters=int(header["trainable_parameters"]),
                training=json.loads(header["training"]),
                form=header.get("form", ""),
                changes={name: tensors[name] for name in tensors if name.startswith(("override.", "module."))},
                rounding=float(header.get("rounding", 0)),
            )
        except (KeyError, ValueError) as error:
            raise PackError(f"{path} lacks a part of a pack", found=str(error), fix="write it again") from None
        except AptEdgeError as error:
            raise PackError(f"{path}: {error}") from None


def folded_head(head: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Weight `[1, C, K]` and bias `[1, K]` of a head with the norm's affine part in them.

    (g n + c) A + a = n (g A) + (c A + a), in float64 and rounded to the head's own type. The sum runs in one order
    everywhere, so a graph's constants and what a device makes of the same pack are equal to the last bit.

    Args:
        head: `norm.weight`, `norm.bias` `[C]`, `weight` `[K, C]`, `bias` `[K]`.
    """
    gain_C, offset_C, weight_KC, bias_K = (head[name].astype(np.float64) for name in HEAD_TENSORS)
    shift_CK = np.add.accumulate((weight_KC * offset_C).T, axis=0)  # a plain sum's order is the processor's
    folded_CK, folded_K = (weight_KC * gain_C).T, bias_K + shift_CK[-1]
    dtype = head["weight"].dtype
    return np.ascontiguousarray(folded_CK[None], dtype), folded_K[None].astype(dtype)


def _halved(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """Keys and values in float16, and the largest change of one."""
    found, lost = dict(tensors), 0.0
    for name in (name for name in tensors if name.startswith("kv.")):
        with np.errstate(over="ignore"):
            found[name] = tensors[name].astype(np.float16)
        if not np.isfinite(found[name]).all():
            raise PackError(
                f"{name} is beyond float16",
                found=f"{np.abs(tensors[name]).max():.4g}",
                fix="keep this pack in float32, or tune with smaller prompts",
            )
        lost = max(lost, float(np.abs(found[name].astype(np.float32) - tensors[name]).max(initial=0)))
    return found, lost


def _sort_metadata(path: Path) -> None:
    """Write a file's metadata again in the order of their names: safetensors leaves it to chance."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        file.seek(8)
        file.write(text.ljust(size))


def _folded(tensors: Mapping[str, np.ndarray]) -> dict[int, FoldedKV]:
    blocks = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("kv.")})
    return {block: FoldedKV(tensors[f"kv.{block}.key"], tensors[f"kv.{block}.value"]) for block in blocks}
