"""From one traced model to the graph of a target: the rewrite rules in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.graph import attention, batch, opset, patches, pooling, precision, prompts
from export.graph.rules import tidy
from export.target import ATTENTION_OPSET, QDQ_OPSET, Prompts, Target


@dataclass(frozen=True)
class Form:
    """One way of typing a graph.

    Attributes:
        precision: type of everything that is not kept in float32.
        attention: how attention is written; see `export.graph.attention`.
        opset: ONNX opset.
        accumulation: attention gets float32 queries, keys and values, and so accumulates in float32.
        islands: names of further nodes that stay in float32.
        written: whether the types stand in the graph; TensorRT 8 takes a float32 graph and is told by trtexec's flags.
    """

    precision: str
    attention: str
    opset: int
    accumulation: bool = False
    islands: frozenset[str] = frozenset()
    written: bool = True

    def _island(self, name: str) -> bool:
        """Whether a node is an island or a piece of one: older opsets write an operator in several."""
        return name in self.islands or any(name.startswith(f"{island}/") for island in self.islands)

    def keep(self, graph: ir.Graph) -> set[ir.Node]:
        """The nodes that stay in float32."""
        chosen = {node for node in graph if self._island(node.name or "")}
        if self.accumulation:
            chosen |= {node for node in graph if node.op_type == "Attention"}
        if not self.written:
            chosen |= {node for node in graph if node.op_type == "Softmax"}
        return chosen | precision.always_float32(graph, self.precision)


def plain_form(target: Target) -> Form:
    """What a target asks for."""
    opset = max(target.opset, QDQ_OPSET) if target.int8 else target.opset
    return Form(target.precision, target.attention, opset, written=target.strongly_typed)


def accumulating(form: Form) -> Form:
    """`form` with float32 accumulation, which is the operator Attention's to give."""
    return replace(form, attention="attention", opset=ATTENTION_OPSET, accumulation=True)


def untyped(
    traced: ir.Model,
    values: Mapping[str, np.ndarray],
    settings: Prompts,
    form: Form,
    *,
    dynamic: bool = False,
    early_pooling: bool = False,
    patches_apart: bool = False,
) -> tuple[ir.Model, int]:
    """A float32 graph in the dialect of `form`, and how many attentions it has.

    Args:
        traced: from `export.graph.trace`; it is copied, not changed.
        values: prompts and head, `TaskInputs.values`.
        settings: constants or inputs.
        form: attention and opset are taken from it.
        dynamic: whether the batch axis is free.
        early_pooling: whether the mean over the tokens goes in front of the last linear layer.
        patches_apart: whether one time step's patches alone must be equal to those of a clip.
    """
    model = traced.clone()
    prompts.share_heads(model, values)
    prompts.place(model, values, settings)
    if early_pooling:
        pooling.push(model)
    if patches_apart:
        patches.as_product(model)
    count = attention.write(model, form.attention)
    if dynamic:
        batch.free(model)
    else:
        batch.spread(model)
    opset.lower(model, form.opset)
    tidy(model)
    return model, count


def typed(model: ir.Model, form: Form) -> ir.Model:
    """Write the types of `form` into an untyped graph, in place."""
    if form.precision != "float32" and form.written:
        precision.write(model, form.precision, form.keep(model.graph))
        tidy(model)
    return model


def emulated(model: ir.Model, form: Form) -> ir.Model:
    """An untyped graph made to round, in place, wherever the types of `form` say: what parity is measured with."""
    precision.rounded(model, form.precision, form.keep(model.graph))
    tidy(model)
    return model
