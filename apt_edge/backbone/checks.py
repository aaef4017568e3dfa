"""What a checkpoint must be before it is a backbone: every number there, sizes that the tensors bear out, all names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from apt_edge.backbone.layouts.base import LARGEST, Converted, depth_of
from apt_edge.backbone.sources import Stored
from apt_edge.backbone.vit import Vit, VitConfig
from apt_edge.errors import BackboneError


def check_stored(stored: Stored) -> None:
    """Raises BackboneError for tensors that claim more numbers than are stored of them, or hold none."""
    for name, tensor in stored.tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise BackboneError(
                f"{stored.path} does not hold every number of {name}, or quantised",
                found=f"{tensor.dtype} {list(tensor.shape)}, {tensor.layout}, on {tensor.device}",
                fix="save the weights as plain float32 or float16 tensors on the CPU",
            )


def check_config(config: VitConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for sizes that the tensors contradict: nothing is made of them that could take all memory."""
    counts = {name: getattr(config, name) for name in ("width", "depth", "heads", "frames", "size", "tubelet", "patch")}
    if wrong := [f"{name} = {value!r}" for name, value in counts.items() if type(value) is not int or value < 1]:
        raise ValueError(", ".join(wrong))
    if wrong := [f"{name} = {counts[name]}" for name in LARGEST if counts[name] > LARGEST[name]]:
        raise ValueError(f"{', '.join(wrong)}: too large")
    reals = {"mlp_ratio": config.mlp_ratio, "eps": config.eps, "head_eps": config.pool_eps}
    if wrong := [f"{name} = {value!r}" for name, value in reals.items() if not isinstance(value, int | float)]:
        raise ValueError(", ".join(wrong))
    patch = [config.width, 3, config.tubelet, config.patch, config.patch]
    found = list(tensors["patch.weight"].shape) if "patch.weight" in tensors else None
    if found != patch:
        raise ValueError(f"a patch embedding {found} instead of {patch}")
    if config.depth != (stored := depth_of(tensors, "blocks.")):
        raise ValueError(f"{stored} blocks instead of {config.depth}")


def check_fits(converted: Converted, source: str) -> None:
    """Names and shapes must be those of the backbone that the configuration makes."""
    _refuse_missing(converted.missing, source)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Vit(converted.config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in converted.tensors.items()}
    _refuse_missing(sorted(expected.keys() - found.keys()), source)
    if wrong := [name for name in found if found[name] != expected.get(name)]:
        raise BackboneError(
            f"the tensors in {source} do not fit its own configuration",
            found="; ".join(f"{n} {list(found[n])} instead of {list(expected.get(n, ()))}" for n in wrong[:3]),
            fix="give a checkpoint whose blocks have the same sizes",
        )
    if other := [name for name, tensor in converted.tensors.items() if not tensor.is_floating_point()]:
        raise BackboneError(f"{source} holds quantised weights", found=other[0], fix="give them in float32 or float16")


def _refuse_missing(missing: list[str], source: str) -> None:
    if missing:
        raise BackboneError(
            f"{source} lacks {len(missing)} tensors of a backbone",
            found="no " + ", ".join(missing[:6]) + (" ..." if len(missing) > 6 else ""),
            fix="give the whole checkpoint",
        )
