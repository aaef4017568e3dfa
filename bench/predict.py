"""Latency on a device that is not here: `python -m bench.predict --device orin-nx --size vit-base --method apt`.

A prediction is no measurement: every output says so, with the error that back-testing shows. `bench.roofline` has the
model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from apt_edge.backbone.vit import SIZES, size_by_name
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import write_json
from apt_edge.tables import Column, Row, markdown_table, number
from bench.flops import make_method
from bench.roofline import Roofline, groups, load_roofline

# What a prompt of each method is on the device: a row of every block, or a constant key and value of it.
AS_TOKENS = "vpt-deep-tokens"
METHODS = {"linear": (0, 0), "apt": (0, 1), "vpt-deep": (0, 1), AS_TOKENS: (1, 0)}
CLASSES = 174  # of the head in GMACs, as in the suites; no latency changes by it


def predict(roofline: Roofline, device: str, size: str, method: str, tokens: int, batch: int) -> Row:
    """One prediction, `kind` "predicted".

    `latency_ms` is of a batch, `latency_ms_low` and `latency_ms_high` are what nine of ten back-tests would lie within;
    `gmacs` are those of the closed form, of a clip, and `video_tokens` its tokens without prompts; `anchors` are the
    models published for this device; `error` is the back-test's.

    Args:
        roofline: the fitted model.
        device: of `bench/devices.toml`.
        size: of `SIZES`.
        method: of `METHODS`; `vpt-deep` is folded, `vpt-deep-tokens` as published.
        tokens: prompts a block.
        batch: clips a run.
    """
    tokens = 0 if method == "linear" else tokens
    rows, keys = (tokens * share for share in METHODS[method])
    config = size_by_name(size)
    parts = groups(config, batch, rows, keys)
    ms = 1e3 * roofline.predict(parts, device)
    anchors = roofline.anchors(device)
    error = roofline.error(bool(anchors))
    asked: Row = {"kind": "predicted", "device": device, "device_name": roofline.device(device).name, "size": size}
    asked |= {"method": method, "tokens": tokens, "video_tokens": config.tokens, "batch": batch, "precision": "float16"}
    within = {"latency_ms_low": ms / error["factor"], "latency_ms_high": ms * error["factor"]}
    name, settings = (method.removesuffix("-tokens"), {"tokens": tokens}) if tokens else ("linear", {})
    gmacs = make_method(name, config, settings).clip_macs(CLASSES, deployed=method != AS_TOKENS) / 1e9
    found = {"latency_ms": ms, **within, "latency_ms_per_clip": ms / batch, "gmacs": gmacs}
    return {**asked, **found, "anchors": anchors, "error": error}


def beyond(row: Row) -> str:
    """What the error of a prediction does not cover: how far it is from what was back-tested."""
    error = row["error"]
    prompts = f" with {row['tokens']:,} prompts a block" if row["tokens"] else ""
    return (
        f"Back-tested were images of {error['least_tokens']:,} to {error['most_tokens']:,} tokens without prompts; a "
        f"clip here has {row['video_tokens']:,}{prompts}, whose error nobody knows."
    )


COLUMNS: dict[str, Column] = {
    "predicted for": lambda row: str(row["device_name"]),
    "backbone": lambda row: str(row["size"]),
    "method": lambda row: str(row["method"]),
    "prompts": number("tokens", "d"),
    "batch": number("batch", "d"),
    "GMACs": number("gmacs", ".4g"),
    "predicted ms": number("latency_ms", ".3g"),
    "nine of ten": lambda row: f"{row['latency_ms_low']:.3g} to {row['latency_ms_high']:.3g}",
}

BACKTEST_COLUMNS: dict[str, Column] = {
    "device": lambda row: str(row["device"]),
    "model": lambda row: str(row["model"]),
    "tokens": number("tokens", ","),
    "batch": number("batch", "d"),
    "published ms": number("published_ms", ".4g"),
    "predicted / published, without this device": number("without_device", ".2f"),
    "without this model": number("without_model", ".2f"),
}

LIST_COLUMNS: dict[str, Column] = {
    "device": lambda row: str(row["device"]),
    "name": lambda row: str(row["name"]),
    "TMAC/s": number("float16_tmacs", ".4g"),
    "GB/s": number("bandwidth_gbs", ".4g"),
    "published points": lambda row: ", ".join(row["anchors"]) or "none",
    "source": lambda row: str(row["source"]),
}


def _error_text(roofline: Roofline, anchored: bool) -> str:
    error, which = roofline.error(anchored), "with other models" if anchored else "without any"
    return (
        f"Error in back-tests of devices {which} published: median {error['median']:.0%}, worst {error['worst']:.0%}, "
        f"nine of ten within a factor of {error['factor']:.2f} ({error['points']} points)."
    )


def _text(roofline: Roofline, rows: list[Row]) -> str:
    name, anchors, like = rows[0]["device_name"], rows[0]["anchors"], roofline.device(rows[0]["device"]).like
    known = f"Published for {name}: {', '.join(anchors)}."
    if not anchors:
        other = f" {like} has the same architecture and serves instead." if like else ""
        known = f"Nothing is published for {name}: no anchor.{other}"
    error = _error_text(roofline, bool(anchors))
    most = beyond(max(rows, key=lambda row: row["tokens"]))
    return f"{markdown_table(rows, COLUMNS)}\n\nPredicted, not measured. {known}\n{error}\n{most}"


def main() -> None:
    """Predict latencies on a device in float16, from its rates and from published latencies."""
    parser = argparse.ArgumentParser(prog="bench.predict", description=main.__doc__)
    parser.add_argument("--device", help="a device of --list")
    parser.add_argument("--size", choices=list(SIZES), default="vit-base", help="backbone (default: vit-base)")
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=["apt"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[100], help="prompts a block; one row each")
    parser.add_argument("--batch", type=int, default=1, help="clips a run")
    parser.add_argument("--precision", choices=["float16"], default="float16", help="what latencies are published in")
    parser.add_argument("--list", action="store_true", help="show the devices and where their rates stand")
    parser.add_argument("--backtest", action="store_true", help="predict every published latency from the others")
    parser.add_argument("--out", type=Path, help="also write the rows to this file; predicted.json for the report")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    if min(args.tokens) < 0 or args.batch < 1:
        raise ConfigError("--tokens must be 0 or more, --batch 1 or more", found=f"{args.tokens}, {args.batch}")
    roofline = load_roofline()
    if args.list:
        rows = [{"device": key, **roofline.device(key).model_dump(), "anchors": roofline.anchors(key)}
                for key in roofline.devices]  # fmt: skip
        text = markdown_table(rows, LIST_COLUMNS)
    elif args.backtest:
        rows = roofline.backtest()
        text = "\n".join(
            [markdown_table(rows, BACKTEST_COLUMNS), "", *(_error_text(roofline, a) for a in (True, False))]
        )
    elif args.device:
        counts = [(method, n) for method in args.method for n in ([0] if method == "linear" else args.tokens)]
        rows = [predict(roofline, args.device, args.size, *each, args.batch) for each in counts]
        text = _text(roofline, rows)
    else:
        raise ConfigError("no device is named", fix="give --device, or --list to see them")
    if args.out:
        write_json(args.out, rows)
    print(json.dumps(rows, indent=2) if args.json else text)


if __name__ == "__main__":
    run_tool(main, "bench.predict")
