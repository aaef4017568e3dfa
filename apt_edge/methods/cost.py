"""What a backbone costs before anything runs, in closed form; each method states what it adds.

Counting convention: fvcore's, which the papers call FLOPs - every product of a convolution, a linear layer or a matrix
product is one MAC, LayerNorm counts 5 per element, softmax, GELU, additions and means count nothing.
Letters: N video tokens, T prompt tokens, L blocks, C width, K classes.
"""

from __future__ import annotations

from apt_edge.backbone.vit import VitConfig

LAYER_NORM = 5  # fvcore's rough count per element of a LayerNorm with weight and bias


def backbone_macs(config: VitConfig) -> int:
    """MACs of one clip through the bare backbone, without the head."""
    embed = config.patches * config.width * 3 * config.tubelet * config.patch**2
    norm = LAYER_NORM * config.tokens * config.width if config.family == "clip" else 0
    return embed + norm + config.depth * block_macs(config, config.tokens, config.tokens // config.steps)


def block_macs(config: VitConfig, rows: int, keys: int) -> int:
    """One block on `rows` tokens that attend to `keys` keys; keys beyond the rows are given and cost no projection."""
    linear = (4 * config.width + 2 * config.hidden) * rows * config.width
    return linear + attention_macs(config, rows, keys) + 2 * LAYER_NORM * rows * config.width


def attention_macs(config: VitConfig, rows: int, keys: int) -> int:
    """The two products of one attention."""
    return 2 * rows * keys * config.width


def token_macs(config: VitConfig, tokens: int) -> int:
    """What T tokens add to one block that computes everything for them, as for the video's own rows, in every step."""
    steps, own = config.steps, config.tokens // config.steps
    return steps * (block_macs(config, own + tokens, own + tokens) - block_macs(config, own, own))


def bottleneck_macs(config: VitConfig, rank: int) -> int:
    """Two linear layers, C to r and back, on the video's rows."""
    return 2 * config.tokens * config.width * rank


def bottleneck_parameters(config: VitConfig, rank: int) -> int:
    """Trained numbers of two linear layers with biases, C to r and back."""
    return 2 * config.width * rank + rank + config.width


def backbone_parameters(config: VitConfig) -> int:
    """Numbers of the whole backbone; VideoMAE's positions are no weights, a key bias does not exist there."""
    width, hidden = config.width, config.hidden
    embed = 3 * config.tubelet * config.patch**2 * width + width
    attention = 4 * width**2 + 3 * width
    mlp = 2 * width * hidden + hidden + width
    if config.family == "clip":  # positions and the norm behind them
        embed, attention = embed + (config.tokens + 2) * width, attention + width
    return embed + config.depth * (attention + mlp + 4 * width)


def head_macs(config: VitConfig, classes: int) -> int:
    """Pooled norm and classifier, after folding."""
    return LAYER_NORM * config.width + classes * config.width


def head_parameters(config: VitConfig, classes: int) -> int:
    """Trained numbers of the head: norm, classifier and its bias."""
    return 2 * config.width + classes * config.width + classes
