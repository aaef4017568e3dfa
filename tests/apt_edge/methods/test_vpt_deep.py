"""VPT-deep: it folds everywhere when the video's rows are pooled, and everywhere but in the last block otherwise."""

from __future__ import annotations

import pytest

from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import SIZES, ExtraKV
from apt_edge.errors import ConfigError
from apt_edge.methods import VptDeep
from apt_edge.methods.cost import backbone_macs, head_macs, head_parameters
from apt_edge.methods.vpt_deep import VptDeepTokens
from tests.apt_edge.methods.conftest import RANGES, double, prove, tuned


def published(model):
    return VptDeepTokens(model.vit, model.method, model.head)


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_fold(vit, clips, tmp_path, start, end):
    prove(vit, clips, tmp_path, "vpt-deep", published, bound=1e-12, tokens=6, start=start, end=end)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_pooled_prompts_stay_tokens_in_the_last_block(vit, clips, tmp_path, start):
    prove(vit, clips, tmp_path, "vpt-deep", published, tokens=6, start=start, pool="all")


def test_folding_everywhere_is_wrong_when_prompts_are_pooled(vit, clips):
    model = double(tuned(vit, "vpt-deep", tokens=6, pool="all"))
    clips, vit = clips.double(), model.vit
    with pytest.raises(ConfigError, match="the head averages the prompts' rows"):
        model.method.fold(vit)
    everywhere = {}
    for row, block in enumerate(vit.blocks):
        _, key, value = block.attn.project(block.norm1(model.method.prompts[row][None]))
        everywhere[row] = ExtraKV(key, value)
    folded = FoldedModel(vit, model.head, everywhere)
    assert (folded(clips) - published(model)(clips)).abs().max() > 0.1
    assert (model(clips) - published(model)(clips)).abs().max() < 1e-10
    # And the same constants are right when the video alone is pooled.
    model.method.pool = "video"
    assert (folded(clips) - published(model)(clips)).abs().max() < 1e-10


def test_pooled_prompts_need_prompts_in_the_last_block(vit):
    with pytest.raises(ConfigError, match="the last block has none"):
        VptDeep(vit.config, tokens=4, end=1, pool="all")


def test_initialisation():
    method = VptDeep(SIZES["vit-base"], tokens=5)
    assert method.prompts.detach().abs().max().item() == pytest.approx((6 / (768 * 6)) ** 0.5, rel=1e-2)


@pytest.mark.parametrize(
    ("size", "classes", "tokens", "folded", "unfolded"),
    [
        ("vit-base", 101, 5, 180.634, 181.204),
        ("vit-base", 101, 32, 181.414, 185.079),
        ("vit-base", 101, 100, 183.379, 194.956),
        ("vit-base", 101, 200, 186.269, 209.792),
        ("vit-base", 101, 400, 192.050, 240.570),
        ("vit-small", 174, 100, 58.395, 62.061),
        ("vit-small", 174, 400, 62.731, 78.497),
    ],
)
def test_gmacs_before_and_after_folding(size, classes, tokens, folded, unfolded):
    config = SIZES[size]
    method, rest = VptDeep(config, tokens), backbone_macs(config) + head_macs(config, classes)
    assert method.parameter_count() == 12 * tokens * config.width
    assert round((rest + method.added_macs(deployed=True)) / 1e9, 3) == folded
    assert round((rest + method.added_macs(deployed=False)) / 1e9, 3) == unfolded


@pytest.mark.parametrize(
    ("tokens", "gmacs"), [(5, 180.681), (32, 181.719), (100, 184.344), (200, 188.230), (400, 196.093)]
)
def test_gmacs_with_pooled_prompts(tokens, gmacs):
    """The known figures run the whole last block on the prompts; their queries, keys and values are constant here."""
    base = SIZES["vit-base"]
    method = VptDeep(base, tokens, pool="all")
    given = 3 * tokens * 768**2 + 5 * tokens * 768
    total = backbone_macs(base) + head_macs(base, 101) + method.added_macs(deployed=True) + given
    assert round(total / 1e9, 3) == gmacs


def test_parameters_of_table_5():
    base = SIZES["vit-base"]
    assert [VptDeep(base, n).parameter_count() for n in (1, 5)] == [9_216, 46_080]
    assert VptDeep(base, 400).parameter_count() + head_parameters(base, 101) == 3_765_605
