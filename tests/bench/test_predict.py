"""The roofline model: what it counts, how it is fitted, what it says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.config import load_toml
from apt_edge.errors import ConfigError
from apt_edge.methods.cost import LAYER_NORM, backbone_macs
from bench.flops import cost_row, make_method
from bench.page.predictions import make_prediction
from bench.predict import CLASSES, METHODS, beyond, predict
from bench.roofline import (
    BANDWIDTH,
    COMPUTE,
    HERE,
    LAUNCH_S,
    Device,
    Devices,
    Published,
    Roofline,
    Series,
    groups,
    load_roofline,
    seconds,
)

BASE = SIZES["vit-base"]
SHAPES = [("small", 384, 12, 6, 224), ("base", 768, 12, 12, 384), ("large", 1024, 24, 16, 224)]


@pytest.fixture(scope="module")
def roofline() -> Roofline:
    return load_roofline()


def products(parts: list) -> int:
    return sum(part.macs * part.runs for part in parts)


def test_groups_are_the_products_of_the_methods() -> None:
    norms = 2 * LAYER_NORM * BASE.tokens * BASE.width * BASE.depth
    bare = groups(BASE, 1)
    assert products(bare) == backbone_macs(BASE) - norms
    apt = make_method("apt", BASE, {"tokens": 400})
    assert products(groups(BASE, 1, keys=400)) - products(bare) == apt.added_macs(deployed=True)
    vpt = make_method("vpt-deep", BASE, {"tokens": 400})
    rows = products(groups(BASE, 1, rows=400)) - products(bare)
    assert rows == pytest.approx(vpt.added_macs(deployed=False), rel=0.01)  # without the norms of the prompts
    assert products(groups(BASE, 8)) == 8 * products(bare)
    frame = SIZES["clip-vit-base-per-frame"]  # keys of one time step, prompts in each, class tokens as patches
    prompted = products(groups(frame, 1, keys=100)) - products(groups(frame, 1))
    assert prompted == make_method("apt", frame, {"tokens": 100}).added_macs(deployed=True)
    norms = (2 * frame.depth + 1) * LAYER_NORM * frame.tokens * frame.width
    assert products(groups(frame, 1)) == pytest.approx(
        backbone_macs(frame) - norms, rel=1e-4
    )  # class tokens as patches
    moved = sum(part.bytes * part.runs for part in bare)
    assert moved < sum(part.bytes * part.runs for part in groups(BASE, 8)) < 8 * moved  # weights move once a batch


def test_each_group_is_bound_by_the_slower_of_two() -> None:
    parts, macs = groups(BASE, 1), products(groups(BASE, 1))
    starved = seconds(parts, Device(name="x", float16_tmacs=1e-3, bandwidth_gbs=1e9, source="-"))
    assert starved[-1, -1, 0] == pytest.approx(macs / 1e9)
    narrow = seconds(parts, Device(name="x", float16_tmacs=1e9, bandwidth_gbs=1e-3, source="-"))
    assert narrow[-1, -1, 0] == pytest.approx(sum(part.bytes * part.runs for part in parts) / 1e6)
    runs = sum(part.runs for part in parts)
    assert narrow[-1, -1, 5] - narrow[-1, -1, 0] == pytest.approx(runs * LAUNCH_S[5], rel=1e-3)


def made(devices: dict[str, Device], at: tuple[int, int, int], slow: str = "", factor: float = 1.0) -> list[Series]:
    """Latencies that a device with known efficiencies would have, of three models on every device."""
    series = []
    for device in devices:
        for model, width, depth, heads, size in SHAPES:
            facts = {"device": device, "model": model, "width": width, "depth": depth, "heads": heads, "size": size}
            item = Series(**facts, patch=16, batch=[1, 16], latency_ms=[1.0, 1.0], source="-")
            config = SIZES["nano"].__class__(width, depth, heads, 1, size, 1, 16)
            ms = [1e3 * float(seconds(groups(config, batch), devices[device])[at]) for batch in item.batch]
            series.append(item.model_copy(update={"latency_ms": [t * (factor if device == slow else 1) for t in ms]}))
    return series


DEVICES = {
    name: Device(name=name, float16_tmacs=peak, bandwidth_gbs=wide, source="-")
    for name, peak, wide in (("a", 8.0, 100.0), ("b", 150.0, 1500.0), ("c", 30.0, 300.0), ("d", 80.0, 900.0))
}


def test_known_efficiencies_are_found_and_predict_what_was_left_out() -> None:
    at = (20, 12, 10)
    fitted = Roofline(DEVICES, made(DEVICES, at))
    assert fitted.error(anchored=False)["worst"] == pytest.approx(0, abs=1e-9)
    parts = groups(BASE, 1, keys=400)
    expected = float(seconds(parts, DEVICES["a"])[at])
    assert fitted.predict(parts, "a") == pytest.approx(expected)
    assert COMPUTE[20, 0, 0] < 1
    assert BANDWIDTH[12, 0] < 1


def test_a_slow_device_is_known_by_its_own_points_and_by_those_of_its_likes() -> None:
    at = (20, 12, 10)
    like = Device(name="e", like="a", float16_tmacs=4.0, bandwidth_gbs=50.0, source="-")
    fitted = Roofline(DEVICES | {"e": like}, made(DEVICES, at, slow="a", factor=1.5))
    parts = groups(BASE, 1)
    assert fitted.predict(parts, "a") == pytest.approx(1.5 * float(seconds(parts, DEVICES["a"])[at]))
    assert fitted.predict(parts, "e") == pytest.approx(1.5 * float(seconds(parts, like)[at]))
    assert fitted.predict(parts, "b") == pytest.approx(float(seconds(parts, DEVICES["b"])[at]))
    assert (fitted.anchors("e"), fitted.anchors("a")) == ([], ["small", "base", "large"])
    slow = [row for row in fitted.backtest() if row["device"] == "a"]
    assert all(row["without_device"] == pytest.approx(1 / 1.5) for row in slow)
    assert all(row["without_model"] == pytest.approx(1) for row in slow)
    assert fitted.error(anchored=False)["worst"] == pytest.approx(1 / 3)


def test_what_is_left_out_of_a_back_test_is_not_used() -> None:
    """A point that is wrong by a factor of ten shows as such, whatever its own value was."""
    series = made(DEVICES, (20, 12, 10))
    series[0] = series[0].model_copy(update={"latency_ms": [10 * ms for ms in series[0].latency_ms]})
    wrong = Roofline(DEVICES, series).backtest()[:2]
    for row in wrong:
        assert row["without_device"] == pytest.approx(0.1)
        assert row["without_model"] == pytest.approx(0.1)


def test_the_shipped_points_and_their_error(roofline: Roofline) -> None:
    devices = load_toml(HERE / "devices.toml", Devices).devices
    published = load_toml(HERE / "published.toml", Published).series
    assert all(item.source and item.device in devices for item in published)
    assert all(device.source and (device.like is None or device.like in devices) for device in devices.values())
    known, unknown = roofline.error(anchored=True), roofline.error(anchored=False)
    assert unknown["points"] == sum(len(item.batch) for item in published)
    assert known["points"] < unknown["points"]
    assert known["median"] <= unknown["median"] < 0.3
    assert unknown["worst"] < 1
    logs = np.abs(np.log([row["without_device"] for row in roofline.backtest()]))
    assert np.mean(logs <= np.log(unknown["factor"])) >= 0.9


def test_a_prediction_says_what_it_is(roofline: Roofline) -> None:
    row = predict(roofline, "orin-nx", "vit-base", "apt", 400, 2)
    assert (row["kind"], row["anchors"], row["tokens"], row["precision"]) == ("predicted", [], 400, "float16")
    assert row["latency_ms_low"] * row["error"]["factor"] == pytest.approx(row["latency_ms"])
    assert row["latency_ms_high"] / row["error"]["factor"] == pytest.approx(row["latency_ms"])
    assert row["latency_ms_per_clip"] == row["latency_ms"] / 2
    assert "times_ms" not in row
    assert predict(roofline, "t4", "vit-base", "apt", 400, 1)["error"] == roofline.error(anchored=True)
    none = predict(roofline, "t4", "vit-base", "linear", 400, 1)
    assert none["tokens"] == 0
    times = [predict(roofline, "t4", "vit-base", name, 400, 1)["latency_ms"] for name in METHODS]
    assert times[0] < times[1] == times[2] < times[3]  # none, APT, VPT folded, VPT as tokens


def test_gmacs_are_those_of_other_tables(roofline: Roofline) -> None:
    found = {name: predict(roofline, "t4", "vit-base", name, 400, 2)["gmacs"] for name in METHODS}
    apt, vpt = (cost_row(name, BASE, {"tokens": 400}, CLASSES) for name in ("apt", "vpt-deep"))
    assert found == {
        "linear": cost_row("linear", BASE, {}, CLASSES)["gmacs_deployed"],
        "apt": apt["gmacs_deployed"],
        "vpt-deep": vpt["gmacs_deployed"],
        "vpt-deep-tokens": vpt["gmacs_published"],
    }
    assert predict(roofline, "t4", "vit-base", "apt", 0, 1)["gmacs"] == found["linear"]


def test_what_was_never_back_tested_is_said(roofline: Roofline) -> None:
    row = predict(roofline, "orin-nx", "vit-base", "apt", 1600, 1)
    assert (row["video_tokens"], row["error"]["least_tokens"], row["error"]["most_tokens"]) == (1568, 196, 2304)
    text = beyond(row)
    assert "images of 196 to 2,304 tokens without prompts; a clip here has 1,568 with 1,600 prompts a block" in text
    assert text in make_prediction([row]).note
    assert "prompts a block" not in beyond(predict(roofline, "orin-nx", "vit-base", "linear", 0, 1))


def test_a_device_that_is_not_known_is_named(roofline: Roofline) -> None:
    with pytest.raises(ConfigError, match=r"no device 'orin'\n.*choose one of orin-nano, .*devices\.toml"):
        predict(roofline, "orin", "vit-base", "apt", 100, 1)
    stray = Series(device="x", model="m", width=64, depth=1, heads=1, size=32, patch=16, batch=[1], latency_ms=[1.0],
                   source="-")  # fmt: skip
    with pytest.raises(ConfigError, match="no device 'x'"):
        Roofline(DEVICES, [stray])
    with pytest.raises(ValueError, match="has 2 batches"):
        Series.model_validate(stray.model_dump() | {"batch": [1, 2]})


@pytest.mark.slow
def test_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.predict"]

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    out = tmp_path / "predicted.json"
    done = run("--device", "orin-nx", "--method", "linear", "apt", "--tokens", "100", "400", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for text in ("predicted ms", "Predicted, not measured", "no anchor", "agx-orin has the same architecture", "worst",
                 "a clip here has 1,568 with 400 prompts"):  # fmt: skip
        assert text in done.stdout
    rows = json.loads(out.read_text())
    assert [(row["method"], row["tokens"]) for row in rows] == [("linear", 0), ("apt", 100), ("apt", 400)]
    assert {row["kind"] for row in rows} == {"predicted"}
    shown = run("--backtest")
    assert "OWL-ViT-B/16-768" in shown.stdout
    assert shown.stdout.count("nine of ten within a factor of") == 2
    listed = run("--list", "--json")
    assert all(row["source"] for row in json.loads(listed.stdout))
    for arguments in ((), ("--device", "orin-nx", "--batch", "0")):
        wrong = run(*arguments)
        assert (wrong.returncode, "Traceback" in wrong.stderr, "fix:" in wrong.stderr or "found:" in wrong.stderr) == (
            1,
            False,
            True,
        )
