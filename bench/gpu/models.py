"""What the GPU suite runs: every contender of one backbone size on the very same weights, which they share.

Latency does not depend on the values of the weights, so they are random; only `bench.gpu.parity` needs tuned prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import Head, Vit
from apt_edge.methods import METHODS
from apt_edge.methods.base import Method
from apt_edge.methods.cost import head_parameters
from apt_edge.methods.vpt_deep import VptDeep, VptDeepTokens
from bench.numbers import weights_sha256

CLASSES = 174  # Something-Something V2, as in the other suites
SEED = 0


@dataclass(frozen=True)
class Contender:
    """One model of the comparison.

    Attributes:
        name: as tables show it.
        method: of `METHODS`; `linear` has no prompts.
        settings: of the method.
        as_tokens: VPT-deep as published, its prompts dragged through every block.
        series: line of a plot over the number of prompts; empty without prompts.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    as_tokens: bool = False
    series: str = ""

    @property
    def tokens(self) -> int:
        """Prompts a block; 0 without."""
        return int(self.settings.get("tokens", 0))


class Built(NamedTuple):
    """A contender as a module, and what is known of it without running it.

    Attributes:
        contender: what was built.
        method: the tuning method, untrained.
        module: clips to logits.
        gmacs: billions of multiply-accumulates of a clip, in closed form (`apt_edge.methods.cost`).
        trainable_parameters: what tuning would train.
        sha256: of the weights in float32.
    """

    contender: Contender
    method: Method
    module: nn.Module
    gmacs: float
    trainable_parameters: int
    sha256: str


def contenders(tokens: Sequence[int]) -> list[Contender]:
    """No prompts, and for each number of prompts APT and VPT-deep in both forms."""
    found = [Contender("none", "linear")]
    for count in tokens:
        settings = {"tokens": count}
        found += [
            Contender(f"APT-{count}", "apt", settings, series="APT"),
            Contender(f"VPT-{count} folded", "vpt-deep", settings, series="VPT-deep folded"),
            Contender(f"VPT-{count} as tokens", "vpt-deep", settings, as_tokens=True, series="VPT-deep as tokens"),
        ]
    return found


def build(vit: Vit, contender: Contender) -> Built:
    """A contender with random weights from a seed, in float32 on the CPU; the global random state is left as it was.

    Args:
        vit: frozen; the module uses it and does not copy it.
        contender: what to build.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        method = METHODS[contender.method](vit.config, **contender.settings).requires_grad_(False)
        head = method.make_head(CLASSES).requires_grad_(False)
        nn.init.trunc_normal_(head.linear.weight, std=0.02)  # so that logits are not all near 0
    module = assemble(vit, method, head, contender.as_tokens)
    macs = method.clip_macs(CLASSES, deployed=not contender.as_tokens)
    trained = method.parameter_count() + head_parameters(vit.config, CLASSES)
    return Built(contender, method, module, macs / 1e9, trained, weights_sha256(module))


def assemble(vit: Vit, method: Method, head: Head, as_tokens: bool = False) -> nn.Module:
    """The model as it is deployed, or VPT-deep as published; without gradients, in evaluation mode."""
    if as_tokens:
        assert isinstance(method, VptDeep)  # no other method has prompts that can be tokens
        return VptDeepTokens(vit, method, head).requires_grad_(False).eval()
    deployed = method.deploy(vit)
    return FoldedModel(changed(vit, deployed.form, deployed.changes), head.folded(), deployed.kv).eval()


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights and constants in `dtype`, in place; the head stays in float32, so that logits are never half."""
    for name, part in module.named_children():
        if name != "head":
            part.to(dtype)
    for name, buffer in module.named_buffers(recurse=False):
        module.register_buffer(name, buffer.to(dtype))
    return module
