"""What a benchmark compares, read from `bench/suites/*.toml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from apt_edge.config import Strict
from apt_edge.methods import METHODS
from train.recipe import checked_settings

Rounds = Annotated[int, Field(ge=10, multiple_of=2)]  # even, so that both orders of ABBA are equally frequent
SessionName = Literal["onnxruntime-cpu", "openvino-float32", "openvino-bfloat16"]


def _check_method(method: str, settings: dict[str, Any]) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}")
    checked_settings(method, settings)


class RandomModel(Strict):
    """A model with random weights: latency does not depend on their values, so no training is needed.

    Attributes:
        size: backbone size (`apt_edge.backbone.vit.SIZES`).
        method: of `METHODS`; `linear` has no prompts.
        settings: of the method; what is left out has its default.
        as_tokens: VPT-deep unfolded, its prompts dragged through every layer as published.
        classes: width of the head.
        export: `ours` for the session's own target, or `plain`, what `torch.onnx.export` makes of the same module.
    """

    size: str
    method: str
    settings: dict[str, Any] = Field(default={})
    as_tokens: bool = False
    classes: int = Field(default=174, ge=1)
    export: Literal["ours", "plain"] = "ours"

    @model_validator(mode="after")
    def _consistent(self) -> RandomModel:
        _check_method(self.method, self.settings)
        if self.as_tokens and self.method != "vpt-deep":
            raise ValueError("as_tokens is for vpt-deep: the prompts of other methods are never tokens")
        return self


class Contender(Strict):
    """One row of the comparison, from exactly one source.

    Attributes:
        name: as tables and plots show it.
        session: what runs it.
        model: directory with `model.onnx` and `model.json`, relative to the current directory.
        unfolded: a finished VPT-deep run of `train.tune`, measured as published, with its prompts as tokens.
        random: a model with random weights, built and cached.
        evaluation: JSON file with the key `accuracy`, to show accuracy against latency.
    """

    name: str = Field(min_length=1)
    session: SessionName = "onnxruntime-cpu"
    model: str | None = None
    unfolded: str | None = None
    random: RandomModel | None = None
    evaluation: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Contender:
        if sum(source is not None for source in (self.model, self.unfolded, self.random)) != 1:
            raise ValueError(f"contender {self.name} needs exactly one of model, unfolded and random")
        return self


class Suite(Strict):
    """A comparison: all contenders run interleaved, in one process, on the same clips.

    Attributes:
        name: also the default name of the output directory.
        baseline: the contender that ratios refer to.
        rounds: timed runs of each contender.
        warmup: rounds before that are not recorded.
        threads: threads within one operator.
        clips: list file of real videos; clips from a seed when absent (only for random models).
        clip_count: how many different clips the rounds go through.
        gmacs_tolerance: gate: every latency ratio must lie within this fraction of its GMAC ratio.
    """

    name: str
    baseline: str
    rounds: Rounds
    warmup: int = Field(ge=1)
    threads: int = Field(ge=1)
    clips: str | None = None
    clip_count: int = Field(default=8, ge=1)
    gmacs_tolerance: float | None = Field(default=None, gt=0)
    contenders: list[Contender] = Field(min_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        names = [contender.name for contender in self.contenders]
        if len(set(names)) < len(names):
            raise ValueError("two contenders have the same name")
        if self.baseline not in names:
            raise ValueError(f"the baseline {self.baseline} is not a contender: choose one of {', '.join(names)}")
        if self.clips is None and any(contender.random is None for contender in self.contenders):
            raise ValueError("exported models are measured on real clips: set clips to a list file")
        return self


class StepContender(Strict):
    """A way of training, one row of the comparison.

    Attributes:
        name: as tables and plots show it.
        method: of `METHODS`.
        settings: of the method; what is left out has its default.
        cached: steps begin with the kept prefix instead of the clip.
        against: further contenders, beside the baseline, that its cost is compared with.
    """

    name: str = Field(min_length=1)
    method: str
    settings: dict[str, Any] = Field(default={})
    cached: bool = False
    against: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _known(self) -> StepContender:
        _check_method(self.method, self.settings)
        return self


class StepSuite(Strict):
    """A comparison of training steps: all contenders take turns, in one process, on clips of noise.

    Attributes:
        name: also the default name of the output directory.
        backbone: as in recipes; `random:<size>` serves as well as any.
        classes: width of the head.
        batch: clips a step.
        baseline: the contender that ratios refer to.
        rounds: timed steps of each contender.
        warmup: rounds before that are not recorded.
        threads: threads within one operator.
    """

    name: str
    backbone: str
    classes: int = Field(default=174, ge=1)
    batch: int = Field(default=1, ge=1)
    baseline: str
    rounds: Rounds
    warmup: int = Field(ge=1)
    threads: int = Field(ge=1)
    contenders: list[StepContender] = Field(min_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> StepSuite:
        names = [contender.name for contender in self.contenders]
        if len(set(names)) < len(names):
            raise ValueError("two contenders have the same name")
        for name in [self.baseline, *(other for contender in self.contenders for other in contender.against)]:
            if name not in names:
                raise ValueError(f"{name} is not a contender: choose one of {', '.join(names)}")
        return self
