"""VideoMAE as Hugging Face's transformers save it; biases under their old and their new names.

The blocks' epsilon stands in config.json (1e-12 by default), that of the norm behind the mean is PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable

from apt_edge.backbone.layouts.base import Converted, Hints, Shapes, Tensors, check_positions, depth_of, sizes
from apt_edge.backbone.layouts.blocks import DECODER, LAST_NORM, LONE_NORM, Names, explain, take_head
from apt_edge.backbone.layouts.settings import Settings, class_names, epsilon, side, text, whole
from apt_edge.backbone.vit import VitConfig
from apt_edge.errors import BackboneError

NAMES = Names(
    patch="embeddings.patch_embeddings.projection",
    blocks="encoder.layer.",
    parts={
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    split=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    bias="attention.attention.{}_bias",
)
WEIGHT = f"{NAMES.patch}.weight"
EPS, HEAD_EPS = 1e-12, 1e-5


def recognises(shapes: Shapes) -> bool:
    """The patch embedding over time, of the bare model or of one with something on top."""
    return any(name.endswith(WEIGHT) and len(shape) == 5 for name, shape in shapes.items())


def convert(tensors: Tensors, hints: Hints) -> Converted:
    """The tensors under our names.

    Raises:
        BackboneError: not a backbone of VideoMAE's kind.
    """
    prefix = next(name for name in tensors if name.endswith(WEIGHT)).removesuffix(WEIGHT)
    outer = prefix.removesuffix("videomae.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    activation = text(hints.config, "hidden_act")
    if activation not in (None, "gelu"):
        raise BackboneError(
            "this backbone computes something else than VideoMAE's",
            found=f"hidden_act {activation!r} in config.json",
            fix="give one with gelu",
        )
    warnings: list[str] = []
    config = sizes(
        depth_of(shapes, prefix + NAMES.blocks),
        shapes[prefix + WEIGHT],
        (shapes.get(f"{prefix}{NAMES.blocks}0.intermediate.dense.weight") or (0,))[0],
        hints,
        warnings,
        eps=epsilon(hints.config, "layer_norm_eps") or EPS,
        head_eps=HEAD_EPS,
    )
    warnings += _contradictions(hints, config)
    result = Converted(config, warnings=warnings)
    if not hints.config:
        result.notes.append(
            f"there is no config.json: {config.frames} frames, {config.size} pixels, eps {EPS} are Hugging Face's own"
        )
    NAMES.convert(tensors, prefix, result)
    take_head(tensors, result, f"{outer}fc_norm", f"{outer}classifier")
    if result.head is None and f"{outer}classifier.weight" in tensors:
        result.notes.append(
            "the classifier reads the first token (use_mean_pooling is off), which pre-training left untrained: it is "
            "left out, the backbone is used with the mean over its tokens"
        )
    elif result.head is not None:
        result.labels = _labels(hints, len(result.head.weight))
    name = f"{prefix}embeddings.position_embeddings"
    if name in tensors:
        result.ignored[name] = check_positions(name, tensors[name], config)
    reasons = {
        f"{prefix}layernorm.": LAST_NORM,
        f"{outer}classifier.": "a classifier of the first token",
        f"{outer}fc_norm.": LONE_NORM,
        **dict.fromkeys((f"{outer}decoder.", f"{outer}encoder_to_decoder.", f"{outer}mask_token"), DECODER),
    }
    explain(tensors, result, reasons, prefix + NAMES.blocks)
    return result


def _contradictions(hints: Hints, config: VitConfig) -> list[str]:
    """What config.json says otherwise than the tensors show."""
    shown: dict[str, tuple[object, Callable[[Settings, str], object]]] = {
        "model_type": ("videomae", text),
        "hidden_size": (config.width, whole),
        "num_hidden_layers": (config.depth, whole),
        "intermediate_size": (config.hidden, whole),
        "tubelet_size": (config.tubelet, whole),
        "patch_size": (config.patch, side),
        "num_channels": (3, whole),
    }
    said = {key: read(hints.config, key) for key, (_, read) in shown.items()}
    return [
        f"config.json says {key} = {said[key]}, the tensors are those of {value}: they are followed. Is it their file?"
        for key, (value, _) in shown.items()
        if said[key] not in (None, value)
    ]


def _labels(hints: Hints, classes: int) -> list[str] | None:
    """Class names of config.json, unless they are the placeholders that transformers fills in."""
    names = class_names(hints.config, "id2label")
    labels = [names.get(index, f"LABEL_{index}") for index in range(classes)]
    return None if labels == [f"LABEL_{index}" for index in range(classes)] else labels
