"""One model with its tasks, behind one object: what predicts, streams and measures uses it.

Shapes: T frames of a clip, t frames of a tubelet, S size, N tokens, C width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from apt_edge.errors import ModelError
from apt_edge.runtime.bank import PromptBank
from apt_edge.runtime.bundle import load_model
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.sessions import open_session
from apt_edge.runtime.tasks import own_task


class TaskRunner:
    """All tasks of a model on the same frames.

    Args:
        bank: the model with its tasks.

    Attributes:
        model: the exported model directory.
        tasks: task name to class names, in the order of its logits.
        tubelet: frames of a tubelet, where the model's patches can be embedded one tubelet at a time; else None.
    """

    def __init__(self, bank: PromptBank) -> None:
        self._bank = bank
        self.model = bank.model
        self.tasks = {name: bank.labels_of(name) for name in bank.tasks}
        self.tubelet: int | None = None

    @classmethod
    def open(
        cls, model_path: str | Path, tasks: Mapping[str, Path] | None = None, threads: int | None = None
    ) -> TaskRunner:
        """Load a model in the runtime of its target.

        Args:
            model_path: the exported model directory, or a bundle, whose files are checked.
            tasks: name to pack file; the model's own task under the directory's name when there is none.
            threads: of the runtime; all cores when None.

        Raises:
            ModelError: the model is damaged.
            PackError: a pack is damaged or does not fit the model.
            AptEdgeError: the runtime is not installed.
        """
        model = load_model(model_path)
        bank = PromptBank(model, open_session(model, threads))
        for name, pack in (tasks or {}).items():
            bank.load(name, pack)
        if not bank.tasks:
            bank.add(own_task(model))
        return cls(bank)

    def logits(self, frames_TSSC: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 logits `[K]` of each task for uint8 frames `[T, S, S, 3]`; raises ModelError when they do not fit."""
        found = {}
        for name in self.tasks:
            self._bank.switch(name)
            found[name] = self._bank.run(frames_TSSC)
        return found

    def embed(self, frames_tSSC: np.ndarray) -> np.ndarray:
        """Patches `[1, t N / T, C]` of one tubelet, uint8 `[t, S, S, 3]`; for a model with a `tubelet` alone."""
        raise self._no_stem()

    def logits_of(self, patches: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What `logits` gives for the T / t tubelets of these `patches`, to the last bit; needs a `tubelet`."""
        raise self._no_stem()

    def _no_stem(self) -> ModelError:
        return ModelError(
            f"{self.model.path} embeds whole clips alone", fix="export it with --split-at 0 for embeddings of tubelets"
        )
