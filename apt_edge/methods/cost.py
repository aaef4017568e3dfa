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
    embed = config.tokens * config.width * 3 * config.tubelet * config.patch**2
    return embed + config.depth * block_macs(config, config.tokens, config.tokens)


def block_macs(config: VitConfig, rows: int, keys: int) -> int:
    """One block on `rows` tokens that attend to `keys` keys; keys beyond the rows are given and cost no projection."""
    linear = (4 * config.width + 2 * config.hidden) * rows * config.width
    return linear + attention_macs(config, rows, keys) + 2 * LAYER_NORM * rows * config.width


def attention_macs(config: VitConfig, rows: int, keys: int) -> int:
    """The two products of one attention."""
    return 2 * rows * keys * config.width


def token_macs(config: VitConfig, tokens: int) -> int:
    """What T tokens add to one block that computes everything for them, as for the video's own rows."""
    video = config.tokens
    return block_macs(config, video + tokens, video + tokens) - block_macs(config, video, video)


def bottleneck_macs(config: VitConfig, rank: int) -> int:
    """Two linear layers, C to r and back, on the video's rows."""
    return 2 * config.tokens * config.width * rank


def bottleneck_parameters(config: VitConfig, rank: int) -> int:
    """Trained numbers of two linear layers with biases, C to r and back."""
    return 2 * config.width * rank + rank + config.width


def backbone_parameters(config: VitConfig) -> int:
    """Numbers of the whole backbone; positions are no weights, a key bias does not exist."""
    width, hidden = config.width, config.hidden
    embed = 3 * config.tubelet * config.patch**2 * width + width
    attention = 4 * width**2 + 3 * width
    mlp = 2 * width * hidden + hidden + width
    return embed + config.depth * (attention + mlp + 4 * width)


def head_macs(config: VitConfig, classes: int) -> int:
    """Pooled norm and classifier, after folding."""
    return LAYER_NORM * config.width + classes * config.width


def head_parameters(config: VitConfig, classes: int) -> int:
    """Trained numbers of the head: norm, classifier and its bias."""
    return 2 * config.width + classes * config.width + classes
