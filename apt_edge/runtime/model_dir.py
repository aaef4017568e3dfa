"""An exported model directory: `model.onnx`, its sidecar `model.json`, and what else the exporter and builder add."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.errors import MissingDependency, ModelError
from apt_edge.files import sha256, write_json
from apt_edge.runtime.session import TensorSpec
from apt_edge.runtime.sidecar import damage
from apt_edge.video.preprocess import normalise

ONNX, SIDECAR, ENGINE, GOLDEN = "model.onnx", "model.json", "model.engine", "golden.npz"
TRUST = "engine.json"  # beside an engine that a bundle's build.sh built
PROMPTS = "prompts.safetensors"
INPUT, OUTPUT = "clip", "logits"
COPY = "copy the whole directory, or export again"
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"


def prompt_name(block: int, part: str) -> str:
    """Name of a prompt tensor in graphs and engines; `part` is `key` or `value`."""
    return f"blocks.{block}.attn.prompt_{part}"


@dataclass(frozen=True)
class ModelDir:
    """Paths and facts of one exported model.

    Attributes:
        path: the directory.
        facts: the sidecar as read.
        clip: the input contract.
        labels: class names in the order of the logits.
    """

    path: Path
    facts: dict[str, Any]
    clip: ClipSpec
    labels: tuple[str, ...]

    @property
    def onnx(self) -> Path:
        return self.path / ONNX

    @property
    def engine(self) -> Path:
        return self.path / ENGINE

    @classmethod
    def load(cls, path: str | Path) -> ModelDir:
        """Read the sidecar and check the graph's hash; raises ModelError when files are missing or disagree."""
        path = Path(path)
        for name in (ONNX, SIDECAR):
            if not (path / name).is_file():
                raise ModelError(f"{path} is not an exported model: {name} is missing", fix="run export.to_onnx")
        try:
            facts = json.loads((path / SIDECAR).read_text(encoding="utf-8"))
            model = cls(path, facts, ClipSpec.from_dict(facts["clip"]), tuple(facts["labels"]))
            expected, wrong = facts["onnx_sha256"], damage(facts, INPUT)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            wrong = str(error) or type(error).__name__
        if wrong:
            raise ModelError(f"{path / SIDECAR} is damaged", found=wrong, fix="run export.to_onnx again")
        if sha256(model.onnx) != expected:
            raise ModelError(
                f"{model.onnx} is not the file that {SIDECAR} describes",
                fix=COPY,
            )
        return model

    @property
    def target(self) -> dict[str, Any]:
        """The page that the model was exported for; raises ModelError when the sidecar has none."""
        if not isinstance(self.facts.get("target"), dict):
            raise ModelError(f"{self.path / SIDECAR} names no target", fix="export with export.to_onnx")
        return self.facts["target"]

    def trusted_engine(self) -> Path:
        """The engine, if its sha256 stands in the sidecar (`export.to_engine`) or in `engine.json` (`trust_engine`).

        Raises:
            ModelError: there is none, or nobody vouches for it.
        """
        found = self._engine_sha256()
        built = (self.facts.get("engine") or {}).get("plan_sha256")
        if found not in (built, self._vouched()):
            raise ModelError(
                f"{self.engine} is not trusted: it is not known to be built from {ONNX} of this directory",
                found=f"sha256 {found}, which neither {SIDECAR} nor {TRUST} has",
                fix="build it again on this device with build.sh or export.to_engine; if you built it from this "
                f"{ONNX} yourself: apt-edge bundle trust {self.path}",
            )
        return self.engine

    def trust_engine(self) -> None:
        """Vouch for the engine as it is: write its sha256 and the graph's to `engine.json`; raises ModelError."""
        digest = self._engine_sha256()
        write_json(self.path / TRUST, {"engine_sha256": digest, "onnx_sha256": self.facts["onnx_sha256"]})

    def _engine_sha256(self) -> str:
        if not self.engine.is_file():
            raise ModelError(
                f"{self.path} has no {ENGINE}", fix="build it on this device: build.sh or export.to_engine"
            )
        return sha256(self.engine)

    def _vouched(self) -> str | None:
        """sha256 of the engine that `engine.json` vouches for, for this very graph."""
        path = self.path / TRUST
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            return entry["engine_sha256"] if entry["onnx_sha256"] == self.facts["onnx_sha256"] else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path} is damaged",
                found=str(error),
                fix=f"apt-edge bundle trust {self.path}, if you trust the engine",
            ) from None

    @cached_property
    def prompts(self) -> dict[str, np.ndarray]:
        """Values of the prompts and the head that are graph inputs; empty when they are constants.

        Raises:
            ModelError: the file is missing or damaged.
            MissingDependency: safetensors is not installed.
        """
        if self.facts.get("prompt_mode") != "bound":
            return {}
        try:  # here: a device with folded prompts needs numpy alone
            from safetensors import SafetensorError
            from safetensors.numpy import load_file
        except ImportError:
            raise MissingDependency(
                f"safetensors is not installed, which reads {PROMPTS}", fix="pip install safetensors"
            ) from None

        path = self.path / PROMPTS
        if not path.is_file():
            raise ModelError(f"{path} is missing", fix=COPY)
        expected = self.facts.get("prompts_sha256")
        if expected is not None and sha256(path) != expected:  # older sidecars have none
            raise ModelError(f"{path} is not the file that {SIDECAR} describes", fix=COPY)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged", found=str(error), fix=COPY) from None

    def parts(self) -> list[Path]:
        """The files of a model that was cut, in their order; none of one that was not.

        Raises:
            ModelError: one is missing, or is not what the sidecar describes.
        """
        files = [(self.path / part["file"], part["sha256"]) for part in self.facts.get("parts", [])]
        for path, expected in files:
            if not path.is_file() or sha256(path) != expected:
                raise ModelError(
                    f"{path} is not the part that {SIDECAR} describes",
                    found="another file" if path.is_file() else "no file",
                    fix=COPY,
                )
        return [path for path, _ in files]

    def feeds(self, inputs: Mapping[str, TensorSpec], frames_TSSC: np.ndarray) -> dict[str, np.ndarray]:
        """What a session of this model is fed for one clip.

        Args:
            inputs: the session's.
            frames_TSSC: uint8 `[T, S, S, 3]`; they are normalised here for a graph that does not do it itself.

        Raises:
            ModelError: the session's inputs are not those that the sidecar describes.
        """
        for name, spec in inputs.items():
            self._check_input(name, spec)
        return feeds(inputs, frames_TSSC[None], self.clip, self.prompts)

    def _check_input(self, name: str, spec: TensorSpec) -> None:
        if name == INPUT:
            _, frames, size, _ = self.clip.shape
            shape = (frames, size, size, 3) if spec.dtype == np.uint8 else self.clip.shape
            fits, expected = spec.shape[1:] == shape, f"clip [1, {', '.join(map(str, shape))}]"
        else:
            fits, expected = name in self.prompts, ", ".join([INPUT, *self.prompts])
        if not fits:
            raise ModelError(
                f"the input of {self.onnx} is not what {SIDECAR} describes",
                found=f"{name} {list(spec.shape)}, expected {expected}",
                fix="export again from the pack",
            )


def feeds(
    inputs: Mapping[str, TensorSpec], frames_BTSSC: np.ndarray, clip: ClipSpec, prompts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Feeds of a session for uint8 frames: as they are or normalised, and the prompts and head that are inputs.

    Those with a batch axis are repeated: every row gets the same task.
    """
    raw = inputs[INPUT].dtype == np.uint8
    result = {INPUT: frames_BTSSC if raw else np.stack([normalise(frames, clip) for frames in frames_BTSSC])}
    for name, spec in inputs.items():
        if name != INPUT:
            rows = len(frames_BTSSC) if spec.shape[0] is None else 1
            result[name] = np.repeat(prompts[name], rows, axis=0)
    return result
