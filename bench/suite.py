"""What a benchmark compares, read from `bench/suites/*.toml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from apt_edge.config import Strict
from apt_edge.methods import METHODS
from apt_edge.runtime.tensorrt_log import MODULES
from bench.form import Built
from train.recipe import checked_settings

Rounds = Annotated[int, Field(ge=10, multiple_of=2)]  # even, so that both orders of ABBA are equally frequent
Positive = Annotated[int, Field(ge=1)]
SessionName = Literal[
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "openvino-float32",
    "openvino-bfloat16",
    "tensorrt",
    "tensorrt-rtx",
    "pytorch-eager",
    "pytorch-compile",
    "pytorch-cuda-eager",
    "pytorch-cuda-compile",
    "pytorch-cuda-graph",
]
PYTORCH = "pytorch-"  # what the names of sessions begin with that run modules instead of graphs


def _check_method(method: str, settings: dict[str, Any]) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}")
    checked_settings(method, settings)


class RandomModel(Strict):
    """A model with random weights: latency does not depend on their values, so no training is needed.

    Attributes:
        size: backbone size (`apt_edge.backbone.vit.SIZES`).
        frames, pixels: of a clip, where they are not the size's own.
        method: of `METHODS`; `linear` has no prompts.
        settings: of the method; what is left out has its default.
        as_tokens: VPT-deep unfolded, its prompts dragged through every layer as published.
        huggingface: the same weights in transformers' `VideoMAEForVideoClassification`, which knows no prompts.
        classes: width of the head.
        export: `ours` for the session's own target, or `plain`, what `torch.onnx.export` makes of the same module.
    """

    size: str
    frames: Positive | None = None
    pixels: Positive | None = None
    method: str
    settings: dict[str, Any] = Field(default={})
    as_tokens: bool = False
    huggingface: bool = False
    classes: Positive = 174
    export: Literal["ours", "plain"] = "ours"

    @model_validator(mode="after")
    def _consistent(self) -> RandomModel:
        _check_method(self.method, self.settings)
        if self.as_tokens and self.method != "vpt-deep":
            raise ValueError("as_tokens is for vpt-deep: the prompts of other methods are never tokens")
        if self.huggingface and self.method != "linear":
            raise ValueError("huggingface is for linear: transformers' model has no place for prompts or adapters")
        return self

    @property
    def tokens(self) -> int:
        """Prompts a block."""
        return int(self.settings.get("tokens", 0))


class Point(Strict):
    """Where a contender stands in a figure of a sweep.

    Attributes:
        axis: what changes.
        value: prompts a block, clips a run, frames of a clip, or its side in pixels.
        series: the line that the point belongs to.
    """

    axis: Literal["tokens", "batch", "frames", "size"]
    value: int
    series: str = Field(min_length=1)


class Contender(Strict):
    """One row of the comparison, from exactly one source.

    Attributes:
        name: as tables and plots show it.
        session: what runs it.
        model: directory with `model.onnx` and `model.json`, relative to the current directory.
        unfolded: a finished VPT-deep run of `train.tune`, measured as published, with its prompts as tokens.
        random: a model with random weights, built and cached.
        evaluation: JSON file with the key `accuracy`, to show accuracy against latency.
        point: its place in a sweep's figure; sweeps give their own contenders theirs.
    """

    name: str = Field(min_length=1)
    session: SessionName = "onnxruntime-cpu"
    model: str | None = None
    unfolded: str | None = None
    random: RandomModel | None = None
    evaluation: str | None = None
    point: Point | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Contender:
        if sum(source is not None for source in (self.model, self.unfolded, self.random)) != 1:
            raise ValueError(f"contender {self.name} needs exactly one of model, unfolded and random")
        plain = self.random is not None and self.random.export == "plain"
        if self.in_pytorch and not self.random:
            raise ValueError(f"{self.session} runs no exported graph: give random, or choose another session")
        if self.session in MODULES and not self.model:
            raise ValueError(f"{self.session} runs engines: give model, a directory whose engine was built here")
        if self.in_pytorch and plain:
            raise ValueError(f"{self.session} runs the module itself: leave export out, or choose another session")
        if self.random is not None and self.random.huggingface and not (self.in_pytorch or plain):
            raise ValueError('Hugging Face\'s model is exported by PyTorch alone: set export = "plain"')
        return self

    @property
    def in_pytorch(self) -> bool:
        """Whether PyTorch runs it, instead of a runtime for graphs."""
        return self.session.startswith(PYTORCH)

    @property
    def built(self) -> Built:
        """What made the thing that runs, as rows say it."""
        plain = self.random is not None and self.random.export == "plain"
        if self.random is not None and self.random.huggingface:
            return "Hugging Face, torch.onnx.export" if plain else "Hugging Face"
        return "torch.onnx.export" if plain else "apt-edge"


class Sweep(Strict):
    """Contenders that differ in one number, one for each value, named `<series> <value>`.

    Attributes:
        axis: what changes: prompts a block (0 is the method linear), frames of a clip, or its side in pixels. The
            sweep over batches is a suite of mode `offline`.
        values: of the axis.
        series: the line of the figure.
        session: what runs them.
        random: the model, as in a contender, without what changes.
    """

    axis: Literal["tokens", "frames", "size"]
    values: list[Annotated[int, Field(ge=0)]] = Field(min_length=2)
    series: str = Field(min_length=1)
    session: SessionName = "onnxruntime-cpu"
    random: dict[str, Any]

    def contenders(self) -> list[Contender]:
        """One for each value; raises ValueError for a model that cannot be."""
        return [self._contender(value) for value in self.values]

    def _contender(self, value: int) -> Contender:
        model = dict(self.random)
        if self.axis != "tokens":
            model[{"frames": "frames", "size": "pixels"}[self.axis]] = value
        elif value == 0:
            model = {key: model[key] for key in model if key not in ("settings", "as_tokens")} | {"method": "linear"}
        else:
            model["settings"] = {**model.get("settings", {}), "tokens": value}
        name, point = f"{self.series} {value}", Point(axis=self.axis, value=value, series=self.series)
        try:
            return Contender(name=name, session=self.session, random=RandomModel.model_validate(model), point=point)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ValueError(f"{name}: {found}") from None


class Suite(Strict):
    """A comparison: all contenders run interleaved, in one process, on the same clips.

    Attributes:
        name: also the default name of the output directory.
        mode: `single-stream`, one clip after the other; `offline`, every contender at every batch; or `mlperf`, one
            contender after the other for `seconds` each, whose metric is the 90th percentile.
        baseline: the contender that ratios refer to.
        rounds: timed runs of each contender; in mlperf the time says how many.
        warmup: least rounds before that are not recorded.
        threads: threads within one operator.
        batches: clips a run, offline.
        seconds: least length of a contender's measurement, mlperf.
        stages: decode, preprocessing, inference and the whole way from video file to logits are timed as well.
        clips: list file of real videos; synthetic videos of `train.clips`, made once, when absent.
        clip_count: how many different clips the rounds go through.
        gmacs_tolerance: gate: every latency ratio must lie within this fraction of its GMAC ratio.
        logit_tolerance: gate: largest |logit difference| between contenders of the same weights.
        contenders, sweeps: what is compared.
    """

    name: str
    mode: Literal["single-stream", "offline", "mlperf"] = "single-stream"
    baseline: str
    rounds: Rounds | None = None
    warmup: Positive
    threads: Positive
    batches: list[Positive] = Field(default=[1, 2, 4, 8], min_length=1)
    seconds: float = Field(default=600, gt=0, allow_inf_nan=False)
    stages: bool = False
    clips: str | None = None
    clip_count: Positive = 8
    gmacs_tolerance: float | None = Field(default=None, gt=0)
    logit_tolerance: float | None = Field(default=None, gt=0)
    contenders: list[Contender] = Field(default=[])
    sweeps: list[Sweep] = Field(default=[])

    @property
    def entries(self) -> list[Contender]:
        """The contenders, then those of the sweeps."""
        return [*self.contenders, *(contender for sweep in self.sweeps for contender in sweep.contenders())]

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        names = [contender.name for contender in self.entries]
        if len(names) < 2:
            raise ValueError("a comparison needs two contenders at least")
        if len(set(names)) < len(names):
            raise ValueError("two contenders have the same name")
        if self.baseline not in names:
            raise ValueError(f"the baseline {self.baseline} is not a contender: choose one of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _of_its_mode(self) -> Suite:
        if (self.mode == "mlperf") == (self.rounds is not None):
            raise ValueError("rounds are for single-stream and offline, which need them; mlperf runs for `seconds`")
        for key, mode in (("batches", "offline"), ("seconds", "mlperf"), ("stages", "single-stream")):
            if key in self.model_fields_set and self.mode != mode:
                raise ValueError(f"{key} is for the mode {mode}")
        if len(set(self.batches)) < len(self.batches):
            raise ValueError("a batch stands twice in batches")
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
