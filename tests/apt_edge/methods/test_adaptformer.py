"""AdaptFormer: its second layer disappears in fc2; its counts are the published ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from apt_edge.backbone.vit import SIZES
from apt_edge.methods import AdaptFormer
from apt_edge.methods.cost import backbone_macs, head_macs
from apt_edge.methods.tuned import TunedModel
from tests.apt_edge.methods.conftest import RANGES, double, prove, rebuilt, tuned


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_deployed_form(vit, clips, tmp_path, start, end):
    prove(vit, clips, tmp_path, "adaptformer", r=8, scale=0.7, start=start, end=end)


class OnTheNorm(nn.Module):
    """The same adapters on the normalised stream: what the paper's figure does not show."""

    def __init__(self, model: TunedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        x, method = self.model.vit.embed(clip), self.model.method
        for block, adapter in zip(self.model.vit.blocks, method.adapters, strict=True):
            x = x + block.attn(block.norm1(x))
            hidden = adapter.down(block.norm2(x)).relu()
            x = x + block.mlp(x) + method.factor * adapter.up(hidden)
        return self.model.head(x)


def test_the_adapter_reads_the_stream_and_not_its_norm(vit, clips):
    model = double(tuned(vit, "adaptformer", r=8))
    assert (rebuilt(vit, model)(clips.double()) - OnTheNorm(model)(clips.double())).abs().max() > 1e-2


def test_only_the_adapters_tensors_are_packed(vit):
    model = tuned(vit, "adaptformer", r=8, scale=0.5, start=1)
    changes = model.method.deploy(model.vit).changes
    assert sum(tensor.numel() for tensor in changes.values()) == model.method.parameter_count()
    assert torch.equal(changes["module.2.up.weight"], 0.5 * model.method.adapters[1].up.weight)
    assert torch.equal(changes["module.2.down.weight"], model.method.adapters[1].down.weight)


@pytest.mark.parametrize(
    ("r", "parameters", "gmacs"), [(1, 27_660, 180.518), (4, 82_992, 180.605), (64, 1_189_632, 182.339)]
)
def test_published_counts(r, parameters, gmacs):
    base = SIZES["vit-base"]
    method = AdaptFormer(base, r)
    assert method.parameter_count() == parameters
    total = backbone_macs(base) + head_macs(base, 101) + method.added_macs(deployed=True)
    assert round(total / 1e9, 3) == gmacs


def test_initialisation():
    torch.manual_seed(0)
    adapter = AdaptFormer(SIZES["vit-base"], 64, start=11).adapters[0]
    assert adapter.down.weight.detach().abs().max().item() == pytest.approx(768**-0.5, rel=1e-2)
    assert not any(tensor.any() for tensor in (adapter.down.bias, adapter.up.weight, adapter.up.bias))
