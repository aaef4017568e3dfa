"""The closed forms against published figures and against fvcore's counter on the real modules."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from apt_edge.backbone.vit import SIZES, ExtraKV, Head, Vit, VitConfig
from apt_edge.errors import ConfigError
from apt_edge.methods import METHODS
from bench.flops import main, make_method, trained_numbers

SMALL = VitConfig(64, 3, 2, frames=4, size=32, tubelet=4, patch=8, mlp_ratio=3)
CLASSES, TOKENS = 11, 7


def trained(name: str, config: VitConfig, classes: int, **settings: Any) -> int:
    return trained_numbers(make_method(name, config, settings), classes)


def macs(name: str, config: VitConfig, classes: int, deployed: bool = True, **settings: Any) -> int:
    return make_method(name, config, settings).clip_macs(classes, deployed)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(400, 691758), (600, 1003758), (800, 1315758), (1000, 1627758), (1200, 1939758), (1400, 2251758)]
    + [(1600, 2563758), (2000, 3187758)],
)
def test_apt_paper_table_1(tokens: int, expected: int) -> None:
    assert trained("apt", SIZES["vit-small"], 174, tokens=tokens) == expected


@pytest.mark.parametrize(
    ("tokens", "parameters", "gmacs"),
    [(1, 80765, 180.518), (5, 87005, 180.634), (100, 235205, 183.379), (200, 391205, 186.269), (400, 703205, 192.050)],
)
def test_apt_paper_table_5(tokens: int, parameters: int, gmacs: float) -> None:
    assert trained("apt", SIZES["vit-base"], 101, tokens=tokens) == parameters
    assert round(macs("apt", SIZES["vit-base"], 101, tokens=tokens) / 1e9, 3) == gmacs


def test_head_alone_and_vpt_on_vit_base() -> None:
    base = SIZES["vit-base"]
    assert macs("linear", base, 101) == 180_489_174_528
    assert trained("linear", base, 101) == 79_205
    assert round(macs("vpt-deep", base, 101, deployed=False, tokens=400) / 1e9, 3) == 240.570
    assert macs("vpt-deep", base, 101, tokens=400) == macs("apt", base, 101, tokens=400) == 192_049_724_928
    assert trained("vpt-deep", base, 101, tokens=5) == 12 * 5 * 768 + 79_205


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
    some, every = {"start": 1, "end": 2}, {"start": 0, "end": config.depth - 1}
    assert fvcore_macs(config, range(0)) == macs("linear", config, CLASSES)
    for place in (some, every):
        blocks = range(place["start"], place["end"] + 1)
        assert fvcore_macs(config, blocks) == macs("apt", config, CLASSES, tokens=TOKENS, **place)
        published = macs("vpt-deep", config, CLASSES, deployed=False, tokens=TOKENS, **place)
        assert fvcore_macs(config, blocks, True) == published


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="no method 'adapter'"):
        macs("adapter", SMALL, 2)
    with pytest.raises(ConfigError, match="did you mean tokens"):
        macs("apt", SMALL, 2, token=1)
    with pytest.raises(ConfigError, match="not blocks of this backbone"):
        trained("apt", SMALL, 2, tokens=1, start=1, end=3)


def test_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["bench.flops", "--model", "vit-base", "--classes", "101", *arguments])
        main()
        return capsys.readouterr().out

    got = json.loads(run("--method", "apt", "--tokens", "400", "--json"))
    assert (got["trainable_parameters"], got["gmacs_published"]) == (703205, 192.049724928)
    assert (got["gmacs_deployed"], got["folds"], got["settings"]["tokens"]) == (192.049724928, True, 400)
    assert "183.379" in run("--method", "apt", "--tokens", "1", "5", "100")
    first, last = (
        json.loads(run("--method", "apt", "--set", "tokens=8", "--set", start, "--set", end, "--json"))
        for start, end in (("start=0", "end=5"), ("start=6", "end=11"))
    )
    assert first["gmacs_deployed"] == last["gmacs_deployed"]
    assert first["trainable_parameters"] == last["trainable_parameters"] == 6 * 8 * 130 + 79_205


def test_program_compares_all_methods(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "vit-base", "--classes", "101", "--method", "all", "--tokens", "1", "400", "--json"]
    monkeypatch.setattr("sys.argv", ["bench.flops", *arguments])
    main()
    rows = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in rows} == set(METHODS)
    assert [row["settings"]["tokens"] for row in rows if row["method"] == "vpt-deep"] == [1, 400]
    (lora,) = (row for row in rows if row["method"] == "lora")
    assert lora["gmacs_deployed"] < lora["gmacs_published"]
