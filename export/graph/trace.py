"""PyTorch model -> ONNX graph: one float32 trace with the prompts as inputs; rewrite rules make every dialect of it.

Shapes: B batch, T frames, S size in pixels, C channels of a clip.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import ExtraKV
from apt_edge.runtime.model_dir import INPUT, OUTPUT
from export.rewrites import Pixels

OPSET = 20
SCOPES = "pkg.torch.onnx.name_scopes"


def prompt_name(block: int, part: str) -> str:
    """Name of a prompt tensor in graphs and engines; `part` is `key` or `value`."""
    return f"blocks.{block}.attn.prompt_{part}"


class PromptInputs(nn.Module):
    """A model whose clip is what the graph takes and whose prompts are inputs.

    Args:
        model: `FoldedModel`, or another module `clip -> logits`.
        pixels: arithmetic that makes uint8 frames a clip; None when the graph takes normalised clips.
    """

    def __init__(self, model: nn.Module, pixels: Pixels | None) -> None:
        super().__init__()
        self.model, self.pixels = model, pixels
        extra = model.extra if isinstance(model, FoldedModel) else {}
        self.blocks = list(extra)
        self.prompts = {
            prompt_name(block, part): getattr(extra[block], part) for block in extra for part in ("key", "value")
        }

    def forward(self, clip: Tensor, prompts: list[Tensor]) -> Tensor:
        """Clips and `[1, h, n, d]` prompts (key, value, key, value ...) to logits."""
        if self.pixels is not None:
            clip = self.pixels(clip)
        if not isinstance(self.model, FoldedModel):
            return self.model(clip)
        extra = {block: ExtraKV(*prompts[2 * row : 2 * row + 2]) for row, block in enumerate(self.blocks)}
        return self.model.head(self.model.vit(clip, extra))


def trace(module: PromptInputs, clip: Tensor) -> ir.Model:
    """Trace `module(clip, prompts)` in opset 20; every prompt becomes a graph input of its own name.

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
            (clip, list(module.prompts.values())),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT, *module.prompts],
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


def constants(module: PromptInputs) -> Mapping[str, Any]:
    """The prompts as numpy arrays, float32 `[1, h, n, d]`."""
    return {name: tensor.detach().numpy() for name, tensor in module.prompts.items()}
