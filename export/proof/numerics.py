"""Which types a graph can have: predicted from the ranges that calibration clips showed, before anything overflows.

float16 ends at 65504. A fused attention reads queries, keys and values in the graph's half precision and keeps its
scores inside; what may be done about a number that is too large therefore depends on where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from export.graph.dialect import Form, accumulating, plain_form
from export.proof.ranges import Range
from export.target import Target

FLOAT16_MAX = 65504.0
# Other clips may show larger numbers than the calibration clips did.
HEADROOM = 4.0
# Value prompts this many times as large as anything that the video projects drown it: a fused kernel adds both up in
# float16, which leaves the video's values 11 - 6 bits.
DROWNING = 64.0
RESIDUAL = re.compile(r"(vit|blocks\.\d+)/Add(_\d+)?")
ATTENTION = re.compile(r"blocks\.\d+\.attn/")
NAMES = {
    "islands": "float16 with islands of float32",
    "accumulation": "float16 with float32 accumulation in the attention",
}


class Numerics:
    """What calibration clips showed, and what follows for each form.

    Args:
        ranges: of the float32 graph; empty when the target is float32 anyway.
        prompts: the constants, `[1, h, n, d]`.
    """

    def __init__(self, ranges: Sequence[Range], prompts: Mapping[str, np.ndarray]) -> None:
        self.ranges = ranges
        self.prompts = {name: float(np.abs(values).max()) for name, values in prompts.items()}
        self.located = [item for item in ranges if item.max_abs * HEADROOM > FLOAT16_MAX]
        self.scores = [item for item in self.located if _softmax(item)]
        self.projected = [item for item in self.located if ATTENTION.match(item.node) and not _softmax(item)]
        self.beyond = {name: largest for name, largest in self.prompts.items() if not largest <= FLOAT16_MAX}
        self.drowning = self._drowning()

    def refusal(self, name: str, repairs: Sequence[str]) -> str:
        """Why a form would overflow or drown the video's values, with the place; empty when it fits.

        Args:
            name: a precision or a repair.
            repairs: what the target allows; drowned values are no hindrance where nothing can be done about them.
        """
        if name in ("float32", "bfloat16"):
            return ""
        if self.beyond:
            prompt, largest = max(self.beyond.items(), key=lambda item: item[1])
            return f"the prompt {prompt} reaches {largest:.4g}, float16 ends at {FLOAT16_MAX:.0f}"
        hindrances = {"float16": self.located, "islands": [*self.scores, *self.projected]}.get(name, self.projected)
        if not hindrances:
            drowned = name != "accumulation" and "accumulation" in repairs
            return next(iter(self.drowning.values()), "") if drowned else ""
        worst = max(hindrances, key=lambda item: item.max_abs)
        return f"{worst.node} reaches {worst.max_abs:.4g} on the calibration clips, float16 ends at {FLOAT16_MAX:.0f}"

    def comment(self) -> str:
        """Why the first form was taken."""
        if not self.ranges:
            return "nothing below float32 was asked for"
        largest = _largest(self.ranges)
        text = f"the largest number on the calibration clips is {largest['max_abs']:.4g} in {largest['at']}"
        return "; not repairable on this target: ".join([text, *self.drowning.values()])

    def form(self, name: str, target: Target) -> Form:
        """The graph that a precision or a repair stands for.

        Islands are the residual stream and every located node with the nodes that read it.
        """
        plain = plain_form(target)
        if name == "bfloat16":
            return replace(plain, precision=name)
        if name not in ("islands", "accumulation"):
            return plain
        places = {item.node for item in self.ranges if RESIDUAL.fullmatch(item.node)}
        for item in self.located:
            if not ATTENTION.match(item.node):
                places |= {item.node, *item.readers}
        form = replace(plain, islands=frozenset(places))
        return accumulating(form) if name == "accumulation" else form

    def _drowning(self) -> dict[str, str]:
        """Value prompts that are too large beside what the video projects, with the reason."""
        found = {}
        for name, largest in self.prompts.items():
            place = f"{name.rpartition('.')[0]}/Add"  # queries, keys and values of the video, side by side
            video = max((item.max_abs for item in self.ranges if item.node == place), default=float("inf"))
            if name.endswith("_value") and largest > DROWNING * video:
                found[name] = (
                    f"{name} reaches {largest:.4g}, the video's own projections {video:.4g}: "
                    "a fused attention adds both up in float16"
                )
        return found

    def report(self) -> dict[str, Any]:
        """For the sidecar: the largest numbers, by kind of place and overall.

        `norm_input_squares_overflow` says whether LayerNorm, which always runs in float32, would have needed it.
        """
        kinds = {
            "residual": [item for item in self.ranges if RESIDUAL.fullmatch(item.node)],
            "norm_input": [item for item in self.ranges if any("/LayerNormalization" in name for name in item.readers)],
            "scores": [item for item in self.ranges if _softmax(item)],
            "all": list(self.ranges),
        }
        largest = {kind: _largest(items) for kind, items in kinds.items() if items}
        if self.prompts:
            name = max(self.prompts, key=lambda prompt: self.prompts[prompt])
            largest["prompts"] = {"at": name, "max_abs": self.prompts[name]}
        squares = largest.get("norm_input", {"max_abs": 0.0})["max_abs"] ** 2
        return {
            "headroom": HEADROOM,
            "largest": largest,
            "located": [{"at": item.node, "max_abs": item.max_abs} for item in self.located],
            "prompts_beyond_float16": self.beyond,
            "drowning": self.drowning,
            "norm_input_squares_overflow": bool(squares > FLOAT16_MAX),
        }


def _softmax(item: Range) -> bool:
    return any("/Softmax" in name for name in item.readers)


def _largest(items: Sequence[Range]) -> dict[str, Any]:
    worst = max(items, key=lambda item: item.max_abs)
    return {"at": worst.node, "max_abs": worst.max_abs}
