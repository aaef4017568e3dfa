"""VPT-shallow: tokens that enter once; constants at the entrance, keys and values alone at the exit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from apt_edge.backbone.blocks import LeavingBlock
from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.forms import changed
from apt_edge.backbone.vit import SIZES, ExtraKV, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods import VptShallow
from apt_edge.methods.cost import backbone_macs, head_macs
from apt_edge.methods.tuned import TunedModel
from tests.apt_edge.methods.conftest import double, prove, rebuilt, tuned


class Published(nn.Module):
    """Tokens before the video's, through every block, stripped at the end."""

    def __init__(self, model: TunedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        prompts = self.model.method.prompts
        x = self.model.vit.embed(clip)
        x = self.model.vit.run_blocks(torch.cat([prompts.expand(len(x), -1, -1), x], dim=1))
        return self.model.head(x[:, len(prompts) :])


def test_deployed_form(vit, clips, tmp_path):
    prove(vit, clips, tmp_path, "vpt-shallow", Published, tokens=6)


def test_on_two_blocks_there_is_nothing_between_entrance_and_exit(tiny_vit, tiny_clips):
    model = double(tuned(tiny_vit, "vpt-shallow", tokens=3))
    clip = torch.from_numpy(tiny_clips).double()
    assert (rebuilt(tiny_vit, model)(clip) - Published(model)(clip)).abs().max() < 1e-10


def test_constants_in_the_first_block_alone_are_wrong(vit, clips):
    """The prompts' rows go on: what is constant in the first block depends on the video in the second."""
    model = double(tuned(vit, "vpt-shallow", tokens=6))
    clips, block = clips.double(), model.vit.block(0)
    _, key, value = block.attn.project(block.norm1(model.method.prompts[None]))
    folded = FoldedModel(model.vit, model.head, {0: ExtraKV(key, value)})
    assert (folded(clips) - model(clips)).abs().max() > 1e-2


def test_the_last_block_computes_nothing_for_the_tokens(vit, clips):
    model = tuned(vit, "vpt-shallow", tokens=6)
    deployed = model.method.deploy(model.vit)
    backbone = changed(vit, deployed.form, deployed.changes)
    rows = []
    last = backbone.block(2)
    assert isinstance(last, LeavingBlock)
    for part in (backbone.block(1).fc1, last.fc1):
        part.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[1]))
    assert backbone(clips).shape[1] == 16
    assert rows == [22, 16]


def test_dropout_has_a_mask_for_each_clip(vit, clips):
    method = VptShallow(vit.config, tokens=20, dropout=0.5)
    same = vit.embed(clips[:1]).expand(2, -1, -1)
    torch.manual_seed(0)
    first, second = method.train().run(vit, same)
    assert not torch.equal(first, second)
    first, second = method.eval().run(vit, same)
    assert torch.allclose(first, second, atol=1e-5)


def test_initialisation_and_counts():
    base = SIZES["vit-base"]
    method = VptShallow(base, tokens=50)
    assert method.prompts.detach().abs().max().item() == pytest.approx(0.0625, rel=1e-2)
    assert method.parameter_count() == 50 * 768
    published = backbone_macs(base) + head_macs(base, 101) + VptShallow(base, 100).added_macs(deployed=False)
    assert round(published / 1e9, 3) == 194.956
    assert method.added_macs(deployed=True) < 0.94 * method.added_macs(deployed=False)


def test_a_single_block_is_refused():
    with pytest.raises(ConfigError, match="use vpt-deep"):
        VptShallow(VitConfig(64, 1, 2, frames=4, size=32), tokens=4)
