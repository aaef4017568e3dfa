"""Export targets: what graph a platform gets and how close it must stay to PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from apt_edge.config import Strict, load_toml


class Tolerance(Strict):
    """Bounds of the parity gate.

    Attributes:
        max_abs: largest |logit difference|, in units of max(1, largest |logit| of the float32 model).
        top1_agreement: least share of clips with the same first label.
    """

    max_abs: float = Field(gt=0)
    top1_agreement: float = Field(ge=0, le=1)


class Target(Strict):
    """One platform.

    Attributes:
        name: also the default name of the output directory.
        opset: ONNX opset of the graph.
        precision: type of weights, prompts and activations in the graph; norms and logits are always float32.
        prompt_heads: `shared` stores what the heads share once; `expanded` once per head. A compiler expands shared
            prompts itself and drops their names on the way: a graph whose prompts shall be found is expanded.
        compiler: package that `export.to_engine` builds with; `none` when ONNX Runtime runs the graph as it is.
        tolerance: parity bounds.
    """

    name: str
    opset: int = Field(ge=18, le=20)
    precision: Literal["float32", "float16"]
    prompt_heads: Literal["shared", "expanded"]
    compiler: Literal["tensorrt-rtx", "tensorrt", "none"]
    tolerance: Tolerance


def load_target(path: str | Path) -> Target:
    """Read `export/targets/*.toml`; raises ConfigError."""
    return load_toml(path, Target)
