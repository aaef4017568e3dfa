"""ST-Adapter: the published three-dimensional convolution, as one along time; its counts are the published ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from apt_edge.backbone.vit import SIZES
from apt_edge.methods import StAdapter
from apt_edge.methods.cost import backbone_macs, head_macs
from apt_edge.methods.tuned import TunedModel
from tests.apt_edge.methods.conftest import RANGES, double, prove, rebuilt, tuned


class Published(nn.Module):
    """The depthwise convolution as in the published code: three-dimensional, on a grid of time, height and width."""

    def __init__(self, model: TunedModel) -> None:
        super().__init__()
        self.model = model

    def adapter(self, own: nn.Module, x: Tensor) -> Tensor:
        grid, channels = self.model.vit.config.grid, own.conv.out_channels
        conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels).to(x.dtype)
        conv.weight.data.copy_(own.conv.weight[..., None])
        conv.bias.data.copy_(own.conv.bias)
        hidden = own.down(x).view(len(x), *grid, channels).permute(0, 4, 1, 2, 3)
        return own.up(conv(hidden).permute(0, 2, 3, 4, 1).reshape(len(x), -1, channels))

    def forward(self, clip: Tensor) -> Tensor:
        x, method = self.model.vit.embed(clip), self.model.method
        for index, block in enumerate(self.model.vit.blocks):
            own = method.adapters[index - method.blocks.start] if index in method.blocks else None
            if own is not None and own.before_attn is not None:
                x = x + self.adapter(own.before_attn, x)
            x = x + block.attn(block.norm1(x))
            if own is not None:
                x = x + self.adapter(own.before_mlp, x)
            x = x + block.mlp(x)
        return self.model.head(x)


@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("places", ["mlp", "both"])
def test_deployed_form(vit, clips, tmp_path, start, end, places):
    prove(vit, clips, tmp_path, "st-adapter", Published, width=24, places=places, start=start, end=end)


def test_the_filter_looks_along_time(vit, clips):
    """With one tap it is the same at every time step; with three a step sees its neighbours and not further."""
    model = double(tuned(vit, "st-adapter", width=24, start=2))
    adapter = model.method.adapters[0].before_mlp
    x = model.vit.embed(clips.double())
    moved = x.clone()
    moved[:, :4] += 1  # the first time step: 2 x 2 tokens
    change = (adapter(moved) - adapter(x)).abs().amax(dim=(0, 2)).view(4, 4).amax(1)
    assert (change[:2] > 1e-3).all()
    assert (change[2:] == 0).all()
    assert (rebuilt(vit, model)(clips.double()) - model(clips.double())).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("places", "parameters", "gmacs"), [("mlp", 7_110_144, 191.609), ("both", 14_220_288, 202.729)]
)
def test_published_counts(places, parameters, gmacs):
    base = SIZES["vit-base"]
    with torch.device("meta"):
        method = StAdapter(base, 384, places)
    assert method.parameter_count() == parameters == sum(p.numel() for p in method.parameters())
    total = backbone_macs(base) + head_macs(base, 101) + method.added_macs(deployed=True)
    assert round(total / 1e9, 3) == gmacs


def test_initialisation(vit):
    adapter = StAdapter(vit.config, 24).adapters[0].before_mlp
    assert not any(t.any() for t in (adapter.conv.weight, adapter.conv.bias, adapter.down.bias, adapter.up.bias))
    assert adapter.down.weight.any()
    assert adapter.up.weight.any()
