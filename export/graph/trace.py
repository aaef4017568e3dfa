"""PyTorch model -> ONNX graph: one float32 trace with the task as inputs; rewrite rules make every dialect of it.

A task is its prompts and the head's linear layer. Shapes: B batch, N tokens, n prompts of a block, h in {1, heads},
d head width, C width, K classes.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import ExtraKV, Head
from apt_edge.runtime.model_dir import HEAD_BIAS, HEAD_WEIGHT, INPUT, OUTPUT, prompt_name
from export.rewrites import Pixels

OPSET = 20
SCOPES = "pkg.torch.onnx.name_scopes"


class TaskInputs(nn.Module):
    """A model whose clip is what the graph takes and whose prompts and head are inputs.

    Args:
        model: `FoldedModel`, or another module `clip -> logits`, which has no inputs but the clip.
        pixels: arithmetic that makes uint8 frames a clip; None when the graph takes normalised clips.

    Attributes:
        values: the inputs beside the clip: prompts `[1, h, n, d]` (key, value, key, value ...), then the head's
            weight `[1, C, K]` and bias `[1, K]`.
    """

    def __init__(self, model: nn.Module, pixels: Pixels | None) -> None:
        super().__init__()
        self.model, self.pixels = model, pixels
        extra = model.extra if isinstance(model, FoldedModel) else {}
        self.blocks = list(extra)
        self.values = {
            prompt_name(block, part): getattr(extra[block], part) for block in extra for part in ("key", "value")
        }
        if isinstance(model, FoldedModel):
            linear = model.head.linear
            self.values |= {HEAD_WEIGHT: linear.weight.T[None].contiguous(), HEAD_BIAS: linear.bias[None]}

    def forward(self, clip: Tensor, values: list[Tensor]) -> Tensor:
        """Clips and `values` to logits."""
        if self.pixels is not None:
            clip = self.pixels(clip)
        if not isinstance(self.model, FoldedModel):
            return self.model(clip)
        *prompts, weight_1CK, bias_1K = values
        extra = {block: ExtraKV(*prompts[2 * row : 2 * row + 2]) for row, block in enumerate(self.blocks)}
        return _logits(self.model.head, self.model.vit(clip, extra), weight_1CK, bias_1K)


def _logits(head: Head, tokens_BNC: Tensor, weight_1CK: Tensor, bias_1K: Tensor) -> Tensor:
    """What `head` gives, as a product of three axes: ONNX Runtime computes one of two differently on constants."""
    pooled_B1C = head.norm(tokens_BNC.mean(dim=1, keepdim=True))
    return (pooled_B1C @ weight_1CK).squeeze(1) + bias_1K


def trace(module: TaskInputs, clip: Tensor) -> ir.Model:
    """Trace `module(clip, values)` in opset 20; every value becomes a graph input of its own name.

    Attention is written as Transpose, MatMul, Softmax, MatMul with the scale already on the query: TensorRT's condition
    for a fused kernel, and the form that `export.graph.attention` finds again.

    Args:
        module: the model.
        clip: one example of the graph's own clip input.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torchvision operators and pytree internals: nothing a user can act on
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        program = torch.onnx.export(
            copy.copy(module).eval(),
            (clip, list(module.values.values())),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT, *module.values],
            output_names=[OUTPUT],
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    assert program is not None
    _name(program.model.graph)
    _forget_sources(program.model)
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
    if attn_mask is not None or dropout_p or is_causal or scale != 1.0 or enable_gqa:
        raise NotImplementedError("the exporter translates the backbone's own attention only")
    scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def _name(graph: ir.Graph) -> None:
    """Name nodes and their results by module and operator, as `blocks.3.fc1/MatMul`: audits point at them."""
    seen: Counter[str] = Counter()
    for node in graph:
        modules = [scope for scope in _scopes(node) if scope.split(".")[0] in ("model", "pixels")]
        place = modules[-1].removeprefix("model.").removeprefix("vit.") if modules else ""
        name = f"{place or 'model'}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = node.name + (f".{index}" if len(node.outputs) > 1 else "")


def _forget_sources(model: ir.Model) -> None:
    """Drop the exporter's notes: they hold paths of the machine, and lines that change when the code moves."""
    noted: list[Any] = [model, model.graph, *model.graph, *model.graph.inputs, *model.graph.initializers.values()]
    for each in noted + [value for node in model.graph for value in node.outputs]:
        each.metadata_props.clear()


def _scopes(node: ir.Node) -> list[str]:
    """Module paths around a node, outermost first; the last entry is the operator's own."""
    text = node.metadata_props.get(SCOPES, "")
    return [part.strip(" '\"") for part in text.strip("[]").split(",")][:-1]


def constants(module: TaskInputs) -> dict[str, np.ndarray]:
    """The module's `values` as numpy arrays, float32."""
    return {name: tensor.detach().numpy() for name, tensor in module.values.items()}
