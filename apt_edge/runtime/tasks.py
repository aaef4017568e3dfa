"""A task of a bound model: the values of its graph inputs, from the model's own files or from a pack.

Shapes: h heads of a prompt (1 or H), n prompts, d head width, C width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from apt_edge.errors import ModelError, PackError
from apt_edge.pack import PromptPack, folded_head
from apt_edge.runtime.model_dir import COPY, HEAD_BIAS, HEAD_WEIGHT, INPUT, PROMPTS, ModelDir, prompt_name

HEADS, COUNT = 1, 2  # axes of a prompt [1, h, n, d]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: what callers call it.
        labels: class names in the order of its logits.
        values: graph input to array in the graph's type; empty where they are constants of the graph.
    """

    name: str
    labels: tuple[str, ...]
    values: Mapping[str, np.ndarray]


def own_task(model: ModelDir) -> Task:
    """The task that a model was exported with, named after its directory.

    Raises:
        ModelError: its `prompts.safetensors` is missing, damaged, or of another model.
    """
    if model.facts.get("prompt_mode") == "bound":
        _check_types(model)
        wanted = {name: port for name, port in model.facts["inputs"].items() if name != INPUT}
        wrong = sorted(set(wanted) ^ set(model.prompts)) or [
            name for name, port in wanted.items() if not _fits(model.prompts[name], port)
        ]
        if wrong:
            path = model.path / PROMPTS
            raise ModelError(f"{path} is of another model", found=f"another {', '.join(wrong)}", fix=COPY)
    return Task(model.path.resolve().name, model.labels, model.prompts)


def task_of(pack: PromptPack, model: ModelDir, name: str) -> Task:
    """The task of a pack on a bound model; no array is copied that has the graph's type already.

    Raises:
        PackError: the pack is of another backbone, takes other clips, changes the backbone's weights, or has prompts or
            classes that the graph has no room for.
    """
    _check(pack, model, name)
    _check_types(model)
    ports = {port: facts for port, facts in model.facts["inputs"].items() if port != INPUT}
    weight_1CK, bias_1K = folded_head(pack.head)
    found = {HEAD_WEIGHT: weight_1CK, HEAD_BIAS: bias_1K}
    for block, kv in pack.kv.items():
        found |= {prompt_name(block, "key"): kv.key[None], prompt_name(block, "value"): kv.value[None]}
    if lost := sorted(set(found) - set(ports)):
        blocks = ", ".join(str(block) for block in pack.kv if prompt_name(block, "key") in lost)
        raise PackError(
            f"{model.path} has no place for task {name}",
            found=f"prompts in block {blocks}, of which the graph has no input" if blocks else f"no {', '.join(lost)}",
            fix="export the model from a pack with prompts in all these blocks, with this version",
        )
    values = {port: _value(port, facts, found.get(port), name) for port, facts in ports.items()}
    return Task(name, pack.labels, values)


def _check(pack: PromptPack, model: ModelDir, name: str) -> None:
    if model.facts.get("prompt_mode") != "bound":
        raise PackError(
            f"{model.path} takes no other task than its own",
            found="its prompts are constants of the graph",
            fix="export it with --set prompts.mode=bound",
        )
    backbone = model.facts.get("backbone", {}).get("sha256", "unknown")
    pack.check_backbone(f"the backbone of {model.path}", backbone, f"task {name}")
    if difference := pack.clip.difference(model.clip):
        raise PackError(
            f"task {name} takes other clips than {model.path}", found=difference, fix="tune it with the model's clip"
        )
    if pack.form or pack.changes or model.facts.get("form"):
        changed, found = (f"task {name}", pack.form) if pack.form or pack.changes else (model.path, model.facts["form"])
        raise PackError(
            f"{changed} has weights of its own, which no prompts replace",
            found=f"form {found or ', '.join(sorted(pack.changes))}",
            fix="share a model among tasks of apt, VPT and linear; export this one alone",
        )


def _check_types(model: ModelDir) -> None:
    """Raise ModelError for a graph whose inputs numpy has no type for."""
    if any(port["dtype"] == "bfloat16" for port in model.facts["inputs"].values()):
        raise ModelError(
            f"{model.path} takes its task in bfloat16, which no runtime is fed from numpy",
            fix="export it with --set precision=float16 or float32, or with prompts.mode=folded",
        )


def _fits(array: np.ndarray, port: Mapping[str, Any]) -> bool:
    """Whether an array has an input's type, and its lengths where they are not free."""
    axes = zip(array.shape, port["shape"], strict=False)
    same = array.ndim == len(port["shape"]) and all(want in (None, got) for got, want in axes)
    return same and array.dtype == port["dtype"]


def _value(port: str, facts: Mapping[str, Any], array: np.ndarray | None, name: str) -> np.ndarray:
    """A pack's array as an input takes it; None gives no prompts. A task is one row, whatever a run's batch is."""
    shapes = facts["profile"] or [facts["shape"]]
    least, most = shapes[0], shapes[-1]
    if array is None:
        array = np.zeros([1, least[HEADS], 0, least[-1]], np.float32)
    if array.ndim == 4 and array.shape[HEADS] == 1 < least[HEADS]:
        array = np.repeat(array, least[HEADS], axis=HEADS)
    pairs = list(zip(array.shape, least, most, strict=True))[1:]
    if not all(low <= length <= high for length, low, high in pairs):
        raise PackError(
            f"task {name} does not fit {port}",
            found=f"{_lengths((length, length) for length, _, _ in pairs)}, "
            f"not {_lengths((low, high) for _, low, high in pairs)}",
            fix=_fix(port, array.shape, least),
        )
    return _typed(array, facts["dtype"], f"{port} of task {name}")


def _typed(array: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """The array itself where it has the type."""
    if not np.isfinite(array).all():
        raise PackError(f"{what} has numbers that are not finite", fix="tune the task again, with a smaller rate")
    with np.errstate(over="ignore"):
        typed = array.astype(dtype, copy=False)
    if not np.isfinite(typed).all():
        raise PackError(
            f"{what} is beyond the range of {dtype}",
            found=f"{np.abs(array).max():.4g}",
            fix="use a model in float32 or bfloat16, or tune with smaller prompts",
        )
    return typed


def _fix(port: str, shape: tuple[int, ...], least: list[int]) -> str:
    if port in (HEAD_WEIGHT, HEAD_BIAS):
        return "export the model with --set prompts.max_classes=K, K the most classes of a task"
    if shape[HEADS] > least[HEADS]:
        return "export the model from a pack with a prompt for each head, which takes shared ones as well"
    if shape[COUNT] == 0 and least[COUNT] == 1:
        return "TensorRT knows no empty prompts: export another model for tasks without prompts in this block"
    return "export the model with --set prompts.max_count=N, N the most prompts of a task"


def _lengths(axes: Iterable[tuple[int, int]]) -> str:
    return "x".join(str(low) if low == high else f"{low}..{high}" for low, high in axes)
