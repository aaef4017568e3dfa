"""Export targets: what graph a platform gets, and what it must prove."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from apt_edge.config import Strict, load_toml
from export.trtexec.flags import parse

Repair = Literal["islands", "accumulation", "bfloat16"]
ATTENTION_OPSET = 23
UNFED = "bound prompts are fed from numpy, which has no bfloat16: take float16, or prompts.mode=folded"
QDQ_OPSET = 19  # the first whose scales may be float16


class Tolerance(Strict):
    """Bounds of the parity gate.

    Attributes:
        max_abs: largest |logit difference|, in units of max(1, largest |logit| of the float32 model).
        top1_agreement: least share of clips with the same first label.
        kl: largest mean divergence of the class probabilities, nats.
    """

    max_abs: float = Field(gt=0, allow_inf_nan=False)
    top1_agreement: float = Field(ge=0, le=1)
    kl: float = Field(gt=0, allow_inf_nan=False)


class Int8Tolerance(Tolerance):
    """Bounds with int8: twice the worst drift of nine trained methods on clips that neither trained nor calibrated."""

    max_abs: float = Field(default=0.15, gt=0, allow_inf_nan=False)
    top1_agreement: float = Field(default=0.85, ge=0, le=1)
    kl: float = Field(default=0.04, gt=0, allow_inf_nan=False)


class Batch(Strict):
    """Clips in one run: 1 and static, or any number within a profile.

    Attributes:
        min, opt, max: of the optimisation profile; a `max` of 1 is a static graph.
    """

    min: int = Field(default=1, ge=1)
    opt: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Batch:
        if not self.min <= self.opt <= self.max:
            raise ValueError("min <= opt <= max")
        if self.min == self.max > 1:
            raise ValueError("a batch is 1, or a range")
        return self

    @property
    def dynamic(self) -> bool:
        """Whether the graph's batch axis is free."""
        return self.max > 1


class Prompts(Strict):
    """How a task, prompts and the classifier's linear layer, reaches the graph.

    Attributes:
        mode: `folded` makes them constants, `bound` graph inputs whose values lie in `prompts.safetensors`.
        per_row: a bound task has a batch axis, so that each clip of a batch has its own task.
        max_count: bound prompts have a free count up to this, from 0 (1 in TensorRT); the pack's own count when None.
        max_classes: a bound head has a free number of classes from 1 to this; the pack's own number when None.
    """

    mode: Literal["folded", "bound"] = "folded"
    per_row: bool = False
    max_count: int | None = Field(default=None, ge=1)
    max_classes: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _bound(self) -> Prompts:
        if self.mode == "folded" and (self.per_row or self.max_count or self.max_classes):
            raise ValueError("per_row, max_count and max_classes are for bound prompts")
        return self


class Target(Strict):
    """One platform.

    Attributes:
        name: also the default name of the output directory.
        runtime: what runs the exported model.
        version: of TensorRT, whose trtexec the scripts are written for; empty for other runtimes.
        opset: ONNX opset of the graph.
        max_opset: the newest that the platform reads.
        attention: `decomposed` into MatMul, Softmax, MatMul; the operator `attention` of opset 23; or ONNX Runtime's
            own `multi-head` operator, which on a CPU is its only fused one.
        precision: type of weights, prompts and activations; norms and logits are always float32.
        repairs: what may be done, in this order, when that precision would overflow or leave the tolerance: `islands`
            of float32, float32 `accumulation` in the attention, the wider range of `bfloat16`.
        early_pooling: whether the mean over the tokens goes in front of the last linear layer. It saves products; in
            TensorRT it costs the fusion of the last MLP and a sixth to a fifth more activation memory.
        input: `uint8` frames `[B, T, S, S, 3]` that the graph normalises, or normalised `float32` `[B, 3, T, S, S]`.
        gate: the compiler that must fuse every attention before the export is put in place.
        ops: operators that the platform has; the graph may use no other.
        tolerance: parity bounds.
        int8: whether the blocks' linear layers compute in int8; the rest keeps `precision`.
        int8_tolerance: parity bounds with int8.
        batch: clips a run.
        prompts: constants or inputs.
        split_at: blocks, ascending, in front of which the graph is cut into parts beside the whole, so that tasks can
            share what comes before; 0 is behind the patch embedding, whose part takes the frames of one time step.
    """

    name: str = Field(pattern=r"^[\w.-]*\w$")
    runtime: Literal["onnxruntime-cpu", "onnxruntime-cuda", "openvino", "tensorrt", "tensorrt-rtx"]
    version: str = ""
    opset: int = Field(ge=13, le=ATTENTION_OPSET)
    max_opset: int
    attention: Literal["decomposed", "attention", "multi-head"]
    precision: Literal["float32", "float16", "bfloat16"]
    repairs: list[Repair] = Field(default=[])
    early_pooling: bool
    input: Literal["uint8", "float32"] = "uint8"
    gate: Literal["tensorrt-rtx", "none"] = "none"
    ops: list[str] = Field(min_length=1)
    tolerance: Tolerance
    int8: bool = False
    int8_tolerance: Int8Tolerance = Int8Tolerance()
    batch: Batch = Batch()
    prompts: Prompts = Prompts()
    split_at: list[NonNegativeInt] = Field(default=[])

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if (self.attention == "attention") != (self.opset >= ATTENTION_OPSET):
            raise ValueError("the operator Attention and opset 23 belong together")
        if self.attention == "multi-head" and not self.runtime.startswith("onnxruntime"):
            raise ValueError("the multi-head operator is ONNX Runtime's own")
        if bool(self.version) != (self.runtime == "tensorrt"):
            raise ValueError("version is that of TensorRT, for the runtime tensorrt alone")
        if self.version:
            parse(self.version)
        if self.split_at != sorted(set(self.split_at)):
            raise ValueError("split_at is ascending, each block once")
        if self.prompts.per_row and not self.batch.dynamic:
            raise ValueError("prompts.per_row needs a batch: set batch.opt and batch.max")
        if self.precision == "bfloat16" and not self.takes_bfloat16:
            raise ValueError(UNFED)
        if self.int8 and not self.strongly_typed:
            raise ValueError("int8 needs TensorRT 10 or later: TensorRT 8 takes no typed Q/DQ, leave int8 out there")
        if self.int8 and self.runtime == "onnxruntime-cuda":
            raise ValueError("ONNX Runtime has no int8 linear layers on CUDA: take a TensorRT target for int8")
        needed = {self.opset, QDQ_OPSET if self.int8 else 0, ATTENTION_OPSET if "accumulation" in self.repairs else 0}
        if max(needed) > self.max_opset:
            raise ValueError(f"this needs opset {max(needed)}, {self.name} reads {self.max_opset} at most")
        return self

    @property
    def compiler(self) -> str | None:
        """Package that builds the engine; None when the graph is run as it is."""
        return self.runtime if self.runtime.startswith("tensorrt") else None

    @property
    def fewest_prompts(self) -> int:
        """The least that a free count of prompts may be: TensorRT has no profile of length 0."""
        return 1 if self.compiler else 0

    @property
    def takes_bfloat16(self) -> bool:
        """Whether a graph in bfloat16 can be fed: it has no inputs of that type."""
        return self.prompts.mode == "folded" or not self.strongly_typed

    @property
    def operators(self) -> list[str]:
        """`ops`, and Q/DQ with int8: every runtime that it is allowed for has them."""
        return [*self.ops, "DequantizeLinear", "QuantizeLinear"] if self.int8 else self.ops

    @property
    def bounds(self) -> Tolerance:
        """The tolerance that holds."""
        return self.int8_tolerance if self.int8 else self.tolerance

    @property
    def strongly_typed(self) -> bool:
        """Whether the types in the graph bind: TensorRT 8 takes a float32 graph and a precision flag instead."""
        return not self.version.startswith("8.")


def load_target(path: str | Path, overrides: list[str] | None = None) -> Target:
    """Read `export/targets/*.toml`; `overrides` are strings `a.b=value`. Raises ConfigError."""
    return load_toml(path, Target, overrides)
