"""VideoMAE as Hugging Face's transformers save it; biases under their old and their new names.

The blocks' epsilon stands in config.json (1e-12 by default), that of the norm behind the mean is PyTorch's own.
"""

from __future__ import annotations

from apt_edge.backbone.layouts.base import Converted, Hints, Shapes, Tensors, check_positions, depth_of, sizes
from apt_edge.backbone.layouts.blocks import Names, explain, take_head
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
    joint="",
    split=tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),  # type: ignore[arg-type]
    bias="attention.attention.{}_bias",
)
WEIGHT = f"{NAMES.patch}.weight"
EPS, HEAD_EPS = 1e-12, 1e-5
DECODER = "part of the pre-training's decoder"


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
    activation = hints.config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise BackboneError(
            "this backbone computes something else than VideoMAE's",
            found=f"hidden_act {activation!r} in config.json",
            fix="give one with gelu",
        )
    warnings: list[str] = []
    config = sizes(
        depth_of(shapes, prefix + NAMES.blocks),
        shapes[prefix + WEIGHT],
        shapes.get(f"{prefix}{NAMES.blocks}0.intermediate.dense.weight", (0,))[0],
        hints,
        warnings,
        eps=hints.config.get("layer_norm_eps", EPS),
        head_eps=HEAD_EPS,
    )
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
        f"{prefix}layernorm.": "the norm behind the last block: the mean over the tokens is taken before it",
        f"{outer}classifier.": "a classifier of the first token",
        f"{outer}fc_norm.": "a norm behind the mean without a classifier",
        **dict.fromkeys((f"{outer}decoder.", f"{outer}encoder_to_decoder.", f"{outer}mask_token"), DECODER),
    }
    explain(tensors, result, reasons, prefix + NAMES.blocks)
    return result


def _labels(hints: Hints, classes: int) -> list[str] | None:
    """Class names of config.json, unless they are the placeholders that transformers fills in."""
    names = {int(index): str(name) for index, name in hints.config.get("id2label", {}).items()}
    labels = [names.get(index, f"LABEL_{index}") for index in range(classes)]
    return None if labels == [f"LABEL_{index}" for index in range(classes)] else labels
