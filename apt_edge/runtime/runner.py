"""One model with its tasks, behind one object: what predicts and streams uses it.

Shapes: T frames of a clip, t frames of a tubelet, S size, N tokens, C width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from apt_edge.errors import ModelError
from apt_edge.pack import PromptPack
from apt_edge.runtime.bundle import load_model
from apt_edge.runtime.model_dir import INPUT, ModelDir, feeds
from apt_edge.runtime.parts import Part, open_parts, shared_parts, tubelet_of
from apt_edge.runtime.session import Held
from apt_edge.runtime.tasks import Task, own_task, task_of


class TaskRunner:
    """All tasks of a model on the same frames: where the model is split, what the tasks share is computed once.

    One thread at a time may use it. `TaskRunner.open` makes one.

    Args:
        model: the exported model directory.
        parts: its sessions.
        tasks: one task at least.

    Attributes:
        model: the exported model directory.
        tasks: task name to class names, in the order of its logits.
        tubelet: frames of a tubelet, where the model's patches can be embedded one tubelet at a time; else None.
        shared: how many parts are run once for all tasks.
    """

    def __init__(self, model: ModelDir, parts: Sequence[Part], tasks: Sequence[Task]) -> None:
        self.model, self._parts = model, parts
        self.tasks = {task.name: task.labels for task in tasks}
        self.tubelet, self.shared = tubelet_of(parts), shared_parts(parts, tasks)
        self._held = {task.name: [part.session.hold(part.values(task)) for part in parts] for task in tasks}

    @classmethod
    def open(
        cls, model_path: str | Path, tasks: Mapping[str, Path] | None = None, threads: int | None = None
    ) -> TaskRunner:
        """Load a model in the runtime of its target.

        Args:
            model_path: the exported model directory.
            tasks: name to pack file; the model's own task under the directory's name when there is none.
            threads: of the runtime; all cores when None.

        Raises:
            ModelError: the model is damaged.
            PackError: a pack is damaged or does not fit the model.
            AptEdgeError: the runtime is not installed.
        """
        model = load_model(model_path)
        found = [task_of(PromptPack.load(pack), model, name) for name, pack in (tasks or {}).items()]
        return cls(model, open_parts(model, threads), found or [own_task(model)])

    def logits(self, frames_TSSC: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 logits `[K]` of each task for uint8 frames `[T, S, S, 3]`; raises ModelError when they do not fit."""
        if self.tubelet:
            starts = range(0, len(frames_TSSC), self.tubelet)
            return self.logits_of([self.embed(frames_TSSC[start : start + self.tubelet]) for start in starts])
        return self._finish(self._clip(frames_TSSC), 0)

    def embed(self, frames_tSSC: np.ndarray) -> np.ndarray:
        """Patches `[1, t N / T, C]` of one tubelet, uint8 `[t, S, S, 3]`; raises ModelError without a `tubelet`."""
        self._check_stem()
        stem = self._parts[0]
        return stem.run(self._clip(frames_tSSC), self._any_held(0))

    def logits_of(self, patches: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What `logits` gives for the T / t tubelets that `patches` were embedded of, to the last bit."""
        self._check_stem()
        return self._finish(np.concatenate(patches, axis=1), 1)

    def _clip(self, frames_SSC: np.ndarray) -> np.ndarray:
        inputs = self._parts[0].session.inputs
        return feeds({INPUT: inputs[INPUT]}, np.asarray(frames_SSC)[None], self.model.clip, {})[INPUT]

    def _finish(self, value: np.ndarray, first: int) -> dict[str, np.ndarray]:
        """Logits of each task from what part `first` takes."""
        begin = max(first, self.shared)
        for index in range(first, begin):
            value = self._parts[index].run(value, self._any_held(index))
        return {name: self._branch(value, begin, name)[0] for name in self.tasks}

    def _branch(self, value: np.ndarray, first: int, name: str) -> np.ndarray:
        for part, held in zip(self._parts[first:], self._held[name][first:], strict=True):
            value = part.run(value, held)
        return value

    def _any_held(self, index: int) -> Held:
        """Values of a part that are the same for all tasks."""
        return next(iter(self._held.values()))[index]

    def _check_stem(self) -> None:
        if not self.tubelet:
            raise ModelError(
                f"{self.model.path} embeds whole clips alone",
                fix="export it with --split-at 0 for embeddings of tubelets",
            )
