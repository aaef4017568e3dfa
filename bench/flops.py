"""What a tuning method costs before anything runs: trained numbers and multiply-accumulates, in closed form.

Each method states its own part (`Method.parameter_count`, `Method.added_macs`), `methods.cost` the backbone's and the
head's. Counting convention: fvcore's, which the papers call FLOPs; see `apt_edge.methods.cost`.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping
from typing import Any

from apt_edge.backbone.vit import SIZES, VitConfig, size_by_name
from apt_edge.config import override
from apt_edge.errors import ConfigError, run_tool
from apt_edge.methods import METHODS
from apt_edge.methods.base import Method
from apt_edge.methods.cost import head_parameters
from apt_edge.tables import Column, Row, markdown_table, number
from train.recipe import checked_settings


def make_method(name: str, config: VitConfig, settings: dict[str, Any]) -> Method:
    """A method with checked settings; raises ConfigError for one that is unknown or does not fit."""
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", fix=f"choose one of {', '.join(METHODS)}")
    try:
        return METHODS[name](config, **checked_settings(name, settings))
    except ValueError as error:
        raise ConfigError(f"the settings of {name} are wrong", found=str(error)) from None


def trained_numbers(method: Method, classes: int) -> int:
    """What is trained: the method's own numbers and the head (LayerNorm and linear, 2C + KC + K)."""
    return method.parameter_count() + head_parameters(method.config, classes)


def cost_row(name: str, config: VitConfig, settings: dict[str, Any], classes: int) -> Row:
    """Everything that is known of a method before it runs."""
    if classes < 1:
        raise ConfigError("classes must be at least 1", found=str(classes))
    method = make_method(name, config, settings)
    return {
        "method": name,
        "settings": checked_settings(name, settings),
        "trainable_parameters": trained_numbers(method, classes),
        "gmacs_published": method.clip_macs(classes, deployed=False) / 1e9,
        "gmacs_deployed": method.clip_macs(classes, deployed=True) / 1e9,
        "folds": method.folds,
        "deployment": method.deployment,
    }


def settings_text(row: Mapping[str, Any]) -> str:
    """`tokens=400, start=0`: the settings that have a value."""
    return ", ".join(f"{key}={value}" for key, value in row["settings"].items() if value is not None) or "-"


COLUMNS: dict[str, Column] = {
    "method": lambda row: str(row["method"]),
    "settings": settings_text,
    "trainable": number("trainable_parameters", ","),
    "GMACs as published": number("gmacs_published", ".3f"),
    "GMACs deployed": number("gmacs_deployed", ".3f"),
    "folds": lambda row: "yes" if row["folds"] else "no",
    "deployed as": lambda row: str(row["deployment"]),
}


def _variants(name: str, given: list[str], tokens: list[int]) -> list[dict[str, Any]]:
    """The settings of each row: one for every prompt count where the method has prompts."""
    settings: dict[str, Any] = {}
    for text in given:
        override(settings, text)
    takes_tokens = "tokens" in inspect.signature(METHODS[name].__init__).parameters
    return [{**settings, "tokens": count} for count in tokens] if tokens and takes_tokens else [settings]


def main() -> None:
    """Print what methods train and what they cost, as published and as deployed."""
    parser = argparse.ArgumentParser(prog="bench.flops", description=main.__doc__)
    parser.add_argument("--model", required=True, help=f"backbone size: {', '.join(SIZES)}")
    parser.add_argument("--method", required=True, nargs="+", choices=[*METHODS, "all"], metavar="METHOD",
                        help=f"{', '.join(METHODS)}, or all")  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in --set start=6"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[],
                        help="prompts a block, for the methods that have some; one row each")  # fmt: skip
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--json", action="store_true", help="one object, or a list of them for several rows")
    args = parser.parse_args()
    config = size_by_name(args.model)
    names = list(METHODS) if "all" in args.method else args.method
    rows = [
        cost_row(name, config, settings, args.classes)
        for name in names
        for settings in _variants(name, args.set, args.tokens)
    ]
    print(json.dumps(rows[0] if len(rows) == 1 else rows) if args.json else markdown_table(rows, COLUMNS))


if __name__ == "__main__":
    run_tool(main, "bench.flops")
