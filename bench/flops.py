"""What a tuning method costs before anything runs: trainable parameters and multiply-accumulates in closed form.

Counting convention: fvcore's, which the papers call FLOPs - every product of a convolution, a linear layer or a matrix
product is one MAC, LayerNorm counts 5 per element, softmax, GELU, additions and means count nothing.
Letters: N video tokens, n prompts per block, T = N + n, L blocks, C width, D head width, K classes, B batch (here 1).
"""

from __future__ import annotations

import argparse
import json

from apt_edge.backbone.vit import SIZES, VitConfig, size_by_name
from apt_edge.errors import ConfigError, run_tool

METHODS = ("linear", "apt", "vpt-deep")
LAYER_NORM = 5  # fvcore's rough count per element of a LayerNorm with weight and bias


def trainable_parameters(method: str, config: VitConfig, classes: int, tokens: int, blocks: range | None = None) -> int:
    """Parameters that are tuned: the prompts of `method` and the head (LayerNorm and linear, 2C + KC + K).

    Args:
        method: `linear` (head alone), `apt` (a key, a value and two scales per prompt and block: 2D + 2) or
            `vpt-deep` (a token of width C per prompt and block).
        config: sizes of the backbone.
        classes: K.
        tokens: n, prompts per block.
        blocks: the prompted blocks, all of them when None.

    Raises:
        ConfigError: an unknown method, or sizes that do not fit the backbone.
    """
    _check(method, config, classes, tokens, blocks)
    per_prompt = {"linear": 0, "apt": 2 * config.head_width + 2, "vpt-deep": config.width}[method]
    head = classes * config.width + classes + 2 * config.width
    return len(_prompted(config, blocks)) * tokens * per_prompt + head


def macs(
    method: str,
    config: VitConfig,
    classes: int,
    tokens: int,
    blocks: range | None = None,
    as_tokens: bool = False,
) -> int:
    """MACs of one clip through backbone and head, in fvcore's counting.

    APT and folded VPT-deep cost the same: n more keys and values in the two products of every prompted attention.
    With `as_tokens`, VPT-deep as it was trained: n tokens are prepended before each prompted block, run through all of
    its layers and are stripped after it.

    Args and raises: as `trainable_parameters`; `as_tokens` is for `vpt-deep` only.
    """
    _check(method, config, classes, tokens, blocks)
    if as_tokens and method != "vpt-deep":
        raise ConfigError(f"as_tokens is for vpt-deep: the prompts of {method} are never tokens")
    video, width = config.tokens, config.width
    prompted = len(_prompted(config, blocks)) if method != "linear" else 0
    rows = video + (tokens if as_tokens else 0)
    embed = video * width * 3 * config.tubelet * config.patch**2
    plain = (config.depth - prompted) * _block_macs(config, video, video)
    return embed + plain + prompted * _block_macs(config, rows, video + tokens) + LAYER_NORM * width + classes * width


def _block_macs(config: VitConfig, queries: int, keys: int) -> int:
    """One block on `queries` rows that attend to `keys` keys; extra keys are constants and cost no projection."""
    linear = (4 + 2 * config.mlp_ratio) * queries * config.width**2
    attention = 2 * queries * keys * config.width
    return linear + attention + 2 * LAYER_NORM * queries * config.width


def _prompted(config: VitConfig, blocks: range | None) -> range:
    return range(config.depth) if blocks is None else blocks


def _check(method: str, config: VitConfig, classes: int, tokens: int, blocks: range | None) -> None:
    if method not in METHODS:
        raise ConfigError(f"there is no closed form for method {method!r}", fix=f"choose one of {', '.join(METHODS)}")
    if classes < 1 or tokens < 0:
        raise ConfigError("classes must be at least 1 and tokens at least 0", found=f"{classes} and {tokens}")
    if blocks is not None and not 0 <= blocks.start < blocks.stop <= config.depth:
        raise ConfigError(
            f"the prompted blocks must lie within 0 to {config.depth - 1}", found=f"{blocks.start} to {blocks.stop - 1}"
        )


def _block_range(text: str) -> range:
    try:
        start, end = text.split(":")
        return range(int(start), int(end) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form START:END") from None


def main() -> None:
    """Print the costs of one method for one or more prompt counts."""
    parser = argparse.ArgumentParser(prog="bench.flops", description=main.__doc__)
    parser.add_argument("--model", required=True, help=f"backbone size: {', '.join(SIZES)}")
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[0], help="prompts per block; several are allowed")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--blocks", type=_block_range, metavar="START:END", help="prompted blocks, both inclusive")
    parser.add_argument("--as-tokens", action="store_true", help="vpt-deep unfolded: prompts run through every layer")
    parser.add_argument("--json", action="store_true", help="one object, or a list of them for several token counts")
    args = parser.parse_args()
    config = size_by_name(args.model)
    rows = [
        {
            "trainable_parameters": trainable_parameters(args.method, config, args.classes, tokens, args.blocks),
            "gmacs": macs(args.method, config, args.classes, tokens, args.blocks, args.as_tokens) / 1e9,
        }
        for tokens in args.tokens
    ]
    if args.json:
        print(json.dumps(rows[0] if len(rows) == 1 else rows))
        return
    print(f"{args.model}, {args.method}{' as tokens' if args.as_tokens else ''}, {args.classes} classes")
    print(f"{'tokens':>8} {'trainable':>12} {'GMACs':>10}")
    for tokens, row in zip(args.tokens, rows, strict=True):
        print(f"{tokens:>8} {row['trainable_parameters']:>12,} {row['gmacs']:>10.3f}")


if __name__ == "__main__":
    run_tool(main, "bench.flops")
