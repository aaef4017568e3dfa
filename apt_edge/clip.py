"""ClipSpec: the input contract between training, export and the device, written once and carried by every artefact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from apt_edge.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClipSpec:
    """How a video becomes the model's input.

    Attributes:
        frames: frames per clip.
        size: height and width of the input in pixels.
        sampling: `dense` spreads the frames evenly over a span of `frames * stride`, `segments` takes one of each of
            `frames` equal parts of the video; to the frame in `apt_edge.video.sampling`.
        stride: the span's frames for each frame of the clip (`dense` only).
        resize: `short-side` scales the shorter side to `size` and crops the centre.
        mean, std: per channel, for values in [0, 1].
        colour: channel order.
        layout: `NCTHW`, float32 after normalisation.
    """

    frames: int = 16
    size: int = 224
    sampling: str = "dense"
    stride: int = 4
    resize: str = "short-side"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    colour: str = "RGB"
    layout: str = "NCTHW"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        allowed = {
            "sampling": ("dense", "segments"),
            "resize": ("short-side",),
            "colour": ("RGB",),
            "layout": ("NCTHW",),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"clip.{name} must be one of {', '.join(values)}", found=repr(getattr(self, name)))
        for name in ("frames", "size", "stride"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"clip.{name} must be a positive whole number", found=repr(getattr(self, name)))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                "clip.mean and clip.std must be three numbers, std above 0", found=f"{self.mean}, {self.std}"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of one clip without the batch axis: (3, frames, size, size)."""
        return (3, self.frames, self.size, self.size)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict with every field."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def to_json(self) -> str:
        """Canonical JSON: equal specs give equal strings."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClipSpec:
        """Read a spec; raises ConfigError on an unknown field."""
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"unknown clip field {', '.join(sorted(unknown))}")
        return cls(**data)

    def difference(self, other: ClipSpec) -> str:
        """Name the fields in which two specs differ, empty when they are equal."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return ", ".join(f"{name} {mine} against {theirs}" for name, mine, theirs in pairs if mine != theirs)
