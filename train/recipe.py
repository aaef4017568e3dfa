"""The recipe of a tuning run: one TOML page into frozen, strict models."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from apt_edge.clip import IMAGENET_MEAN, IMAGENET_STD, ClipSpec
from apt_edge.config import Strict
from apt_edge.errors import ConfigError
from apt_edge.files import as_text
from apt_edge.methods import METHODS
from apt_edge.video.views import MOST_CLIPS
from train.engine.randaug import parse_randaug

# TOML has arrays and no tuples: the length is checked, the container is converted.
Pair = Annotated[tuple[float, float], Field(strict=False)]
Colour = Annotated[tuple[float, float, float], Field(strict=False)]


class Data(Strict):
    """The videos: list files, or the root folder of a data set in a published layout (`apt_edge.video.lists`).

    Attributes:
        train, val: paths from the working directory; the same folder for both when it holds both parts.
        labels: file of class names; None finds them beside the lists.
        format: of the lists; None finds it out.
        split: of the three official ones of UCF101 and HMDB51.
        root: folder that relative paths in the lists start at; None tries the list's own and its neighbours.
        decoder: of video files, `pyav` or `decord`.
    """

    train: str
    val: str
    labels: str | None = None
    format: str | None = None
    split: Literal[1, 2, 3] = 1
    root: str | None = None
    decoder: Literal["pyav", "decord"] = "pyav"


class Clip(Strict):
    """The input contract; `size` and `frames` must be the backbone's. See `ClipSpec`."""

    frames: int = Field(default=16, ge=1, le=256)
    size: int = Field(default=224, ge=8, le=1024)
    sampling: Literal["dense", "segments"] = "dense"
    stride: int = Field(default=4, ge=1, le=64)
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    def spec(self) -> ClipSpec:
        """The ClipSpec that the pack carries on."""
        return ClipSpec(self.frames, self.size, self.sampling, self.stride, mean=self.mean, std=self.std)


class Optim(Strict):
    """AdamW with a linear warm-up from 0 and a cosine; the loss is cross-entropy with smoothed labels.

    Attributes:
        batch: videos a step, over all processes and accumulated parts, before repeated augmentation.
        accumulate: parts that a step is computed in. The result is that of the whole batch, but for what is drawn for
            each clip (drop path) and for `bn_linear`, which normalises each part by itself.
        precision: of the forward pass; weights, optimiser and loss stay float32.
        base_lr: peak rate of the method's parameters per `lr_ref_batch` videos; base_lr * batch / lr_ref_batch is used.
        head_base_lr: the same for the head; None is base_lr. Prompts may need a much larger rate than a head.
        min_lr_ratio: last rate as a part of the peak.
        weight_decay: for matrices only; vectors, biases, norms and APT's scales have none. A scale that decay brings
            below 1 has no gradient and never comes back (max(s, 1)).
        official_parity: decay the scales as the published APT code does.
        clip_grad: largest norm of the gradient; None does not limit it.
        validate_every: epochs between two validations; the last epoch always has one.
        early_stop: end after so many validations without a better accuracy; 0 never does.
        keep: which weights go into the pack: those of the last epoch, as published, or of the best validation.
    """

    epochs: int = Field(default=100, ge=1, le=100_000)
    warmup_epochs: float = Field(default=10, ge=0)
    batch: int = Field(default=64, ge=1, le=65_536)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    precision: Literal["no", "fp16", "bf16"] = "no"
    base_lr: float = Field(default=0.05, gt=0, le=1000)
    head_base_lr: float | None = Field(default=None, gt=0, le=1000)
    lr_ref_batch: int = Field(default=256, ge=1)
    min_lr_ratio: float = Field(default=2e-5, ge=0, le=1)
    weight_decay: float = Field(default=1e-5, ge=0, le=1)
    betas: Pair = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_grad: float | None = Field(default=None, gt=0)
    official_parity: bool = False
    validate_every: int = Field(default=1, ge=1)
    early_stop: int = Field(default=0, ge=0)
    keep: Literal["last", "best"] = "last"

    @property
    def method_lr(self) -> float:
        """Peak rate of the method's parameters."""
        return self.base_lr * self.batch / self.lr_ref_batch

    @property
    def head_lr(self) -> float:
        """Peak rate of the head."""
        return (self.base_lr if self.head_base_lr is None else self.head_base_lr) * self.batch / self.lr_ref_batch

    @model_validator(mode="after")
    def _fits_together(self) -> Optim:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is longer than epochs {self.epochs}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be two numbers from 0 to below 1")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} cannot be divided into accumulate = {self.accumulate} equal parts")
        return self


class Augment(Strict):
    """Random changes of the training clips, one draw a clip so that all its frames agree. See `train.engine.augment`.

    Attributes:
        views: augmented views of each clip whose frozen prefix is computed once and kept on disk; each epoch draws
            one of them. 0 keeps nothing and augments freshly in every epoch, through the whole model.
        num_sample: draws of each video in one step (repeated augmentation); a step has batch * num_sample clips.
        randaug: RandAugment as video recipes write it, rand-m4-n2-mstd0.2-inc1; empty for none.
        scale: range of the random resized crop's area, as a part of the frame's.
        ratio: range of the crop's width / height.
        brightness: largest relative change of brightness.
        hflip: mirror half of the clips. A class whose name tells left from right becomes the class of the mirrored
            name, or is never mirrored when there is none (`train.engine.mirror`).
        mirror: further pairs of class names that a flip turns into each other.
    """

    views: int = Field(default=0, ge=0, le=1000)
    num_sample: int = Field(default=1, ge=1, le=64)
    randaug: str = ""
    scale: Pair = (0.08, 1.0)
    ratio: Pair = (0.75, 4 / 3)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    hflip: bool = False
    mirror: dict[str, str] = Field(default_factory=dict)

    @field_validator("randaug")
    @classmethod
    def _randaug_reads(cls, randaug: str) -> str:
        if randaug:
            parse_randaug(randaug)
        return randaug

    @field_validator("scale", "ratio")
    @classmethod
    def _rising(cls, pair: Pair) -> Pair:
        if not 0 < pair[0] <= pair[1]:
            raise ValueError(f"must be two rising numbers above 0, not {list(pair)}")
        return pair

    @model_validator(mode="after")
    def _fits_together(self) -> Augment:
        if self.scale[1] > 1:
            raise ValueError(f"scale must end at 1, the whole frame's area, or below, not at {self.scale[1]:g}")
        if 0 < self.views < self.num_sample:
            raise ValueError(f"num_sample {self.num_sample} draws need as many kept views, and there are {self.views}")
        return self


class Cache(Strict):
    """Where the frozen prefix of kept views (`augment.views`) lies between runs.

    Attributes:
        use: false computes it anew in every step: the same result, slower.
        folder: one folder an entry; anything in it may be removed at any time.
        dtype: float16 halves the disk space; what it rounds away has the size of half precision.
        max_gb: bound on all entries together; the longest unused are removed to make room.
    """

    use: bool = True
    folder: str = "runs/cache"
    dtype: Literal["float32", "float16"] = "float32"
    max_gb: float = Field(default=20.0, gt=0)


class Test(Strict):
    """Views of a video in the final evaluation, whose softmax is averaged: clips along time, times crops."""

    clips: int = Field(default=1, ge=1, le=MOST_CLIPS)
    crops: Literal[1, 3] = 1


class Recipe(Strict):
    """Everything that decides a run's result; the number of workers and the device do not belong here.

    Attributes:
        name: of the run; its files go to `runs/<name>`.
        seed: of the initial weights, the order of the clips, dropout and augmentation.
        backbone: `nano` (embedded), weights in any layout that `apt_edge.backbone.checkpoints.load_backbone` reads
            (a canonical .safetensors file, a published checkpoint's file or folder, owner/name on the Hugging Face
            hub), or `random:<size>`.
        method: `name` and the arguments of that method's constructor, defaults filled in.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0, lt=2**32)
    backbone: str
    data: Data
    clip: Clip = Clip()
    method: dict[str, Any]
    optim: Optim = Optim()
    augment: Augment = Augment()
    cache: Cache = Cache()
    test: Test = Test()

    @field_validator("method")
    @classmethod
    def _method_settings(cls, method: dict[str, Any]) -> dict[str, Any]:
        name = method.get("name")
        if name not in METHODS:
            raise ValueError(f"name must be one of {', '.join(METHODS)}")
        return {"name": name, **checked_settings(name, {k: v for k, v in method.items() if k != "name"})}

    @model_validator(mode="after")
    def _views_exist(self) -> Recipe:
        if self.clip.sampling == "segments" and self.test.clips > 2:
            raise ValueError(
                f"test.clips = {self.test.clips} with clip.sampling = segments: a video gives two clips, the middles "
                "of its segments and their starts, as published (2 x 3 views); set test.clips to 1 or 2"
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings without its name."""
        return {key: value for key, value in self.method.items() if key != "name"}

    def to_toml(self) -> str:
        """The recipe with every default written out; reading it gives an equal recipe.

        Raises:
            ConfigError: a path in it is not UTF-8, as TOML is.
        """
        data = self.model_dump(mode="json")
        lines = [f"{key} = {toml_text(value)}" for key, value in data.items() if not isinstance(value, dict)]
        for table, values in data.items():
            if isinstance(values, dict):
                lines += ["", f"[{table}]"]
                lines += [f"{key} = {toml_text(value)}" for key, value in values.items() if value is not None]
        if wrong := next((line for line in lines if as_text(line) != line), None):
            raise ConfigError(
                "a recipe cannot hold what is not UTF-8",
                found=as_text(wrong),
                fix="give the path of a symbolic link with another name",
            )
        return "\n".join(lines) + "\n"


def checked_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a method with its defaults; the constructor's signature says which there are and of what type."""
    constructor = METHODS[name].__init__
    hints = typing.get_type_hints(constructor)
    parameters = list(inspect.signature(constructor).parameters.values())[2:]  # after self and config
    known = {p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in parameters}
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
            raise ValueError(f"{name} has no setting {key}, {hint}")
    fields: dict[str, Any] = known
    try:
        checked = create_model(name, __base__=Strict, **fields).model_validate(settings).model_dump()
    except ValidationError as error:
        raise ValueError("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from None
    if not 0 <= checked.get("dropout", 0) < 1:
        raise ValueError("dropout must be at least 0 and below 1")
    return checked


def toml_text(value: Any) -> str:
    """A value in TOML syntax, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {toml_text(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers, booleans and arrays are written alike in both


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
