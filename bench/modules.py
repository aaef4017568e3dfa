"""PyTorch modules that benchmarks compare: random weights for any method, trained prompts as tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import freeze, load_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import Vit, VitConfig, size_by_name
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.methods.tuned import TunedModel
from apt_edge.methods.vpt_deep import VptDeep, VptDeepTokens
from apt_edge.pack import PromptPack
from bench.flops import make_method
from bench.huggingface import HuggingFaceModel
from bench.suite import RandomModel
from export.rewrites import Pixels

SEED = 0
PACK, METHOD = "pack.safetensors", "method.safetensors"


class FromFrames(nn.Module):
    """A module behind the input contract of exported graphs: uint8 frames in, normalised here.

    Args:
        module: normalised clips `[B, 3, T, S, S]` to logits.
        clip: gives mean and standard deviation.
        device: where it runs.
        dtype: of the clips that the module takes.
    """

    def __init__(
        self, module: nn.Module, clip: ClipSpec, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype
        self.pixels = Pixels(clip, normalise=True)
        self.pixels.gain, self.pixels.offset = self.pixels.gain.to(device), self.pixels.offset.to(device)

    def forward(self, frames_BTSSC: Tensor) -> Tensor:
        """Returns logits `[B, classes]`, float32."""
        return self.module(self.pixels(frames_BTSSC).to(self.dtype)).float()


def config_of(request: RandomModel) -> VitConfig:
    """Sizes of a random model; raises ConfigError for clips that do not divide into its patches."""
    config = size_by_name(request.size)
    config = replace(config, frames=request.frames or config.frames, size=request.pixels or config.size)
    if config.frames % config.tubelet or config.size % config.patch:
        raise ConfigError(
            f"{request.size} cannot take {config.frames} frames of {config.size} pixels",
            fix=f"give frames that divide by {config.tubelet} and pixels that divide by {config.patch}",
        )
    return config


def clip_of(request: RandomModel) -> ClipSpec:
    """The input contract of a random model."""
    config = config_of(request)
    return ClipSpec(frames=config.frames, size=config.size)


def random_model(request: RandomModel) -> tuple[nn.Module, TunedModel]:
    """The module to run, as deployed or with prompts as tokens, and the trainable form that it comes from."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        vit = freeze(Vit(config_of(request)))
        torch.manual_seed(SEED)
        method = make_method(request.method, vit.config, request.settings)
        tuned = TunedModel(vit, method, request.classes)
        # A fresh classifier gives logits near 0, on which every graph would agree.
        nn.init.trunc_normal_(tuned.head.linear.weight, std=0.02)
    if request.as_tokens:
        assert isinstance(method, VptDeep)  # RandomModel allows no other
        return VptDeepTokens(vit, method, tuned.head).eval(), tuned
    if request.huggingface:
        return HuggingFaceModel(vit, tuned.head.folded()), tuned
    deployed = method.deploy(vit)
    vit = changed(vit, deployed.form, deployed.changes)
    return FoldedModel(vit, tuned.head.folded(), deployed.kv).eval(), tuned


def unfolded_model(run: Path) -> nn.Module:
    """A tuned VPT-deep as published, from its finished run; raises ConfigError when the run is of another method."""
    path = run / PACK
    pack = PromptPack.load(path)
    if pack.method != "vpt-deep":
        raise ConfigError(f"{run} is a run of {pack.method}", fix="only the prompts of vpt-deep can be tokens")
    vit = load_backbone(pack.backbone.name)
    method = VptDeep(vit.config, **pack.settings)
    method.load_state_dict(load_file(run / METHOD))
    return VptDeepTokens(vit, method, folded_model(pack, vit, pack.backbone.name, path).head).eval()
