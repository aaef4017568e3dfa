"""The closed forms against published figures and against fvcore's counter on the real modules."""

from __future__ import annotations

import json

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from apt_edge.backbone.vit import SIZES, ExtraKV, Head, Vit, VitConfig
from apt_edge.errors import ConfigError
from bench.flops import macs, main, trainable_parameters

SMALL = VitConfig(64, 3, 2, frames=4, size=32, tubelet=4, patch=8, mlp_ratio=3)
CLASSES, TOKENS = 11, 7


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(400, 691758), (600, 1003758), (800, 1315758), (1000, 1627758), (1200, 1939758), (1400, 2251758)]
    + [(1600, 2563758), (2000, 3187758)],
)
def test_apt_paper_table_1(tokens: int, expected: int) -> None:
    assert trainable_parameters("apt", SIZES["vit-small"], 174, tokens) == expected


@pytest.mark.parametrize(
    ("tokens", "parameters", "gmacs"),
    [(1, 80765, 180.518), (5, 87005, 180.634), (100, 235205, 183.379), (200, 391205, 186.269), (400, 703205, 192.050)],
)
def test_apt_paper_table_5(tokens: int, parameters: int, gmacs: float) -> None:
    assert trainable_parameters("apt", SIZES["vit-base"], 101, tokens) == parameters
    assert round(macs("apt", SIZES["vit-base"], 101, tokens) / 1e9, 3) == gmacs


def test_head_alone_and_vpt_on_vit_base() -> None:
    base = SIZES["vit-base"]
    assert macs("linear", base, 101, 0) == 180_489_174_528
    assert trainable_parameters("linear", base, 101, 0) == 79_205
    assert round(macs("vpt-deep", base, 101, 400, as_tokens=True) / 1e9, 3) == 240.570
    assert macs("vpt-deep", base, 101, 400) == macs("apt", base, 101, 400) == 192_049_724_928
    assert trainable_parameters("vpt-deep", base, 101, 5) == 12 * 5 * 768 + 79_205


class Classifier(nn.Module):
    """Backbone and head, with prompts as extra keys and values or as tokens in the given blocks."""

    def __init__(self, config: VitConfig, blocks: range, as_tokens: bool) -> None:
        super().__init__()
        self.vit, self.head = Vit(config), Head(config.width, CLASSES)
        self.blocks, self.as_tokens, self.config = blocks, as_tokens, config

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        if not self.as_tokens:
            extra_HTD = torch.zeros(1, self.config.heads, TOKENS, self.config.head_width)
            return self.head(self.vit(clip_BCTHW, {i: ExtraKV(extra_HTD, extra_HTD) for i in self.blocks}))
        x_BNC = self.vit.embed(clip_BCTHW)
        for index, block in enumerate(self.vit.blocks):
            if index in self.blocks:
                x_BNC = block(torch.cat([torch.zeros(1, TOKENS, self.config.width), x_BNC], 1))[:, TOKENS:]
            else:
                x_BNC = block(x_BNC)
        return self.head(x_BNC)


def count_attention(inputs: list, outputs: list) -> int:
    """MACs of q @ k and p @ v, for the fused op that fvcore does not know."""
    *batch, queries, width = get_shape(inputs[0])
    keys = get_shape(inputs[1])[-2]
    total = 2 * queries * keys * width
    for size in batch:
        total *= size
    return total


def fvcore_macs(config: VitConfig, blocks: range, as_tokens: bool = False) -> float:
    clip = torch.zeros(1, 3, config.frames, config.size, config.size)
    analysis = FlopCountAnalysis(Classifier(config, blocks, as_tokens).eval(), clip)
    analysis.set_op_handle("aten::scaled_dot_product_attention", count_attention)
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()


@pytest.mark.parametrize("config", [SIZES["nano"], SMALL], ids=["nano", "small"])
def test_fvcore_counts_the_same_to_the_unit(config: VitConfig) -> None:
    some, every = range(1, 3), range(config.depth)
    assert fvcore_macs(config, range(0)) == macs("linear", config, CLASSES, 0)
    for blocks in (some, every):
        assert fvcore_macs(config, blocks) == macs("apt", config, CLASSES, TOKENS, blocks)
        assert fvcore_macs(config, blocks, True) == macs("vpt-deep", config, CLASSES, TOKENS, blocks, as_tokens=True)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="no closed form"):
        macs("adaptformer", SMALL, 2, 1)
    with pytest.raises(ConfigError, match="never tokens"):
        macs("apt", SMALL, 2, 1, as_tokens=True)
    with pytest.raises(ConfigError, match="within 0 to 2"):
        trainable_parameters("apt", SMALL, 2, 1, range(1, 4))


def test_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["bench.flops", "--model", "vit-base", "--classes", "101", *arguments])
        main()
        return capsys.readouterr().out

    got = json.loads(run("--method", "apt", "--tokens", "400", "--json"))
    assert got == {"trainable_parameters": 703205, "gmacs": 192.049724928}
    assert "183.379" in run("--method", "apt", "--tokens", "1", "5", "100")
    first, last = (
        json.loads(run("--method", "apt", "--tokens", "8", "--blocks", b, "--json")) for b in ("0:5", "6:11")
    )
    assert first == last
    assert first["trainable_parameters"] == 6 * 8 * 130 + 79_205
