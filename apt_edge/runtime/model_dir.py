"""An exported model directory: `model.onnx`, its sidecar `model.json`, and what else the exporter and builder add."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_edge.clip import ClipSpec
from apt_edge.errors import ModelError
from apt_edge.files import sha256

ONNX, SIDECAR, ENGINE, GOLDEN = "model.onnx", "model.json", "model.engine", "golden.npz"


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
            expected = facts["onnx_sha256"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ModelError(f"{path / SIDECAR} is damaged", found=str(error), fix="run export.to_onnx again") from None
        if sha256(model.onnx) != expected:
            raise ModelError(
                f"{model.onnx} is not the file that {SIDECAR} describes",
                fix="copy the whole directory, or export again",
            )
        return model

    def check_input(self, name: str, shape: tuple[Any, ...]) -> None:
        """Raises ModelError when the graph's input is not the clip that the sidecar promises."""
        if name != "clip" or tuple(shape[1:]) != self.clip.shape:
            raise ModelError(
                f"the input of {self.onnx} is not the clip that {SIDECAR} describes",
                found=f"{name} {list(shape)}, expected clip [1, {', '.join(map(str, self.clip.shape))}]",
                fix="export again from the pack",
            )
