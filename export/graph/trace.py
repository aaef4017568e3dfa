"""PyTorch model -> ONNX graph: trace with the prompts as inputs, then bind them as named constants.

One model definition is traced for every target. The precision is the traced module's own, so the float16 types, the
float32 islands around LayerNorm and the float32 head stand in the graph because they stand in the module.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from apt_edge.backbone.blocks import EnteringBlock
from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import ExtraKV, LayerNorm, Vit

INPUT, OUTPUT = "clip", "logits"


def prompt_name(block: int, part: str) -> str:
    """Name of a prompt tensor in graphs and engines; `part` is `key` or `value`."""
    return f"blocks.{block}.attn.prompt_{part}"


class TypedModel(nn.Module):
    """A folded model in the precision of a target, with its prompts as inputs.

    Args:
        model: the float32 model; it is copied, not changed.
        half: float16 backbone and prompts. LayerNorm weights and the head stay float32.
        expand: repeat prompts that the heads share, `[1, 1, T, D]` to `[1, H, T, D]`.
    """

    def __init__(self, model: FoldedModel, half: bool, expand: bool = False) -> None:
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.vit = scaled_queries(model.vit).to(self.dtype)
        for name, module in model.vit.named_modules():
            if isinstance(module, LayerNorm):
                self.vit.get_submodule(name).float().load_state_dict(module.state_dict())  # as before the rounding
        self.head = model.head
        self.blocks = model.prompted
        heads = model.vit.config.heads if expand else -1
        self.prompts = {
            prompt_name(block, part): getattr(model.extra[block], part).to(self.dtype).expand(-1, heads, -1, -1)
            for block in self.blocks
            for part in ("key", "value")
        }

    def forward(self, clip_BCTHW: Tensor, prompts: list[Tensor]) -> Tensor:
        """Float32 clips and `[1, h, T, D]` prompts (key, value, key, value ...) to float32 logits."""
        extra = {block: ExtraKV(*prompts[2 * row : 2 * row + 2]) for row, block in enumerate(self.blocks)}
        return self.head(self.vit(clip_BCTHW.to(self.dtype), extra))


def scaled_queries(vit: Vit) -> Vit:
    """A copy whose attention scale is multiplied into the query weights: exact when D is a power of 4, as 64 is."""
    vit = copy.deepcopy(vit)
    for index in range(vit.config.depth):
        block = vit.block(index)
        attention = block.attn
        if isinstance(block, EnteringBlock):  # its queries were projected before
            block.get_buffer("query").mul_(attention.scale)
        attention.qkv.weight.data[: vit.config.width] *= attention.scale
        attention.q_bias.data *= attention.scale
        attention.scale = 1.0
    return vit


def trace(module: nn.Module, clip: Tensor, prompts: Mapping[str, Tensor], opset: int) -> ir.Model:
    """Trace `module(clip, [prompts])`; every prompt becomes a graph input of its own name.

    Args:
        module: `TypedModel`, or any module that takes a clip alone when there are no prompts.
        clip: one example clip `[B, 3, T, H, W]`, float32.
        prompts: graph input name -> tensor.
        opset: ONNX opset.
    """
    arguments: tuple[Any, ...] = (clip, list(prompts.values())) if isinstance(module, TypedModel) else (clip,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torchvision operators and pytree internals: nothing a user can act on
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            arguments,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT, *prompts],
            output_names=[OUTPUT],
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    assert program is not None
    return program.model


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The canonical dialect: MatMul, Softmax, MatMul with the scale already on the query (TensorRT's fusion rule)."""
    if attn_mask is not None or dropout_p or is_causal or scale != 1.0 or enable_gqa:
        raise NotImplementedError("the exporter translates the backbone's own attention only")
    scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def bind(model: ir.Model, constants: Mapping[str, np.ndarray]) -> ir.Model:
    """Turn the named graph inputs into constants of the same names: f(clip, prompts) becomes f(clip)."""
    for value in [value for value in model.graph.inputs if value.name in constants]:
        assert value.name is not None
        value.const_value = ir.tensor(constants[value.name], name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model
