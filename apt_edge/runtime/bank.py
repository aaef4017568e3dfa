"""PromptBank: many tasks on one loaded model; a switch names another task's arrays and copies nothing.

Shapes: B clips of a run, T frames, S size, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from apt_edge.errors import ConfigError, ModelError
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import HEAD_BIAS, HEAD_WEIGHT, INPUT, OUTPUT, ModelDir, feeds
from apt_edge.runtime.session import Held, HoldingSession
from apt_edge.runtime.tasks import Task, own_task, task_of

BIND = "export the model with --set prompts.mode=bound for tasks that come and go"


class _Loaded(NamedTuple):
    """A task whose values are where the session reads them from, and nowhere else."""

    name: str
    labels: tuple[str, ...]
    held: Held


class PromptBank:
    """Tasks on one exported model; several threads may use it.

    A folded model has one task, its own, for good; a bound one has those that are loaded, none at first.

    Args:
        model: the exported model directory.
        session: the model, loaded in a runtime; nobody else may run it.
    """

    def __init__(self, model: ModelDir, session: HoldingSession) -> None:
        self.model, self._session = model, session
        self._loaded: dict[str, _Loaded] = {}
        self._current: _Loaded | None = None
        self._table, self._running = Lock(), Lock()  # a switch waits for no run
        self._folded = model.facts.get("prompt_mode") != "bound"
        if self._folded:
            own = own_task(model)
            self._take(own)
            self.switch(own.name)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order they were loaded."""
        return tuple(self._loaded)

    @property
    def task(self) -> str | None:
        """Name of the current task; None before the first switch."""
        current = self._current
        return current.name if current else None

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the current task, in the order of the logits; raises ConfigError before the first switch."""
        return self._now().labels

    def labels_of(self, name: str) -> tuple[str, ...]:
        """Class names of a task; raises ConfigError for one that is not loaded."""
        with self._table:
            return self._find(name).labels

    def load(self, name: str, pack: str | Path | PromptPack) -> None:
        """Load a pack, or its file, under a name; nothing changes when it does not fit.

        Raises:
            PackError: the pack is damaged or does not fit the model.
            ConfigError: there is a task of that name.
        """
        self.add(task_of(pack if isinstance(pack, PromptPack) else PromptPack.load(pack), self.model, name))

    def add(self, task: Task) -> None:
        """Take a task whose arrays are of the graph's types; they must not change while it is loaded.

        Raises:
            ModelError: the values are not exactly those of the graph's inputs, or not as many classes as labels.
            ConfigError: there is a task of that name, or the model takes no other task than its own.
        """
        if self._folded:
            raise ConfigError(f"{self.model.path} takes no other task than its own", fix=BIND)
        self._take(task)

    def _take(self, task: Task) -> None:
        _check_whole(task, self._session)
        with self._table:
            self._check_new(task.name)
        with self._running:  # a session's memory may not be touched while it runs
            held = self._session.hold(task.values)
        with self._table:
            self._check_new(task.name)
            self._loaded[task.name] = _Loaded(task.name, task.labels, held)

    def unload(self, name: str) -> None:
        """Forget a task; the current one leaves the bank without.

        Raises:
            ConfigError: it is not loaded, or it is the task of a folded model.
        """
        if self._folded:
            raise ConfigError(f"the task of {self.model.path} cannot be unloaded: it is in the graph", fix=BIND)
        with self._table:
            if self._find(name) is self._current:
                self._current = None
            del self._loaded[name]

    def switch(self, name: str) -> None:
        """Make a task the current one, from the next run on; raises ConfigError for one that is not loaded."""
        with self._table:
            self._current = self._find(name)

    def run(self, frames_TSSC: np.ndarray) -> np.ndarray:
        """Logits `[K]` of uint8 frames `[T, S, S, 3]` in the current task.

        Raises:
            ConfigError: no task is current.
            ModelError: the frames do not fit.
        """
        return self._run(self._now().held, np.asarray(frames_TSSC)[None])[0]

    def run_rows(self, frames_BTSSC: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Logits `[K]` of each clip in its own task, in one run of a graph whose prompts have a batch axis.

        They agree with `run` to rounding, not to the bit. The tasks' values are copied into one batch in every run;
        heads with fewer classes are filled up with zeros, whose logits are left out.

        Raises:
            ConfigError: the graph takes one task a run, the tasks have different numbers of prompts, or there is not
                one task a clip.
            ModelError: the frames do not fit.
        """
        with self._table:
            tasks = [self._find(name) for name in names]
        if not tasks or len(tasks) != len(frames_BTSSC):
            raise ConfigError("every clip needs a task", found=f"{len(tasks)} tasks for {len(frames_BTSSC)} clips")
        if not self.model.target["prompts"]["per_row"]:
            raise ConfigError(
                f"{self.model.path} takes one task a run",
                fix="switch between runs, or export with --set prompts.per_row=true and a batch",
            )
        rows = _rows(tasks)
        logits_BK = self._run(Held(rows), np.asarray(frames_BTSSC))
        return [logits_K[: len(task.labels)] for task, logits_K in zip(tasks, logits_BK, strict=True)]

    def _run(self, held: Held, frames_BTSSC: np.ndarray) -> np.ndarray:
        clip = {INPUT: self._session.inputs[INPUT]}
        with self._running:
            return self._session.run(feeds(clip, frames_BTSSC, self.model.clip, {}), held)[OUTPUT]

    def _now(self) -> _Loaded:
        current = self._current
        if current is None:
            raise ConfigError("no task is chosen", found=_listed(self.tasks), fix="switch to one of them")
        return current

    def _find(self, name: str) -> _Loaded:
        if name not in self._loaded:
            raise ConfigError(f"there is no task {name}", found=_listed(self.tasks), fix="load its pack first")
        return self._loaded[name]

    def _check_new(self, name: str) -> None:
        if name in self._loaded:
            raise ConfigError(f"there is a task {name} already", fix="unload it first, or choose another name")


def _check_whole(task: Task, session: HoldingSession) -> None:
    """Raise ModelError unless a task has a value for every input but the clip, and a label for every class."""
    wanted = set(session.inputs) - {INPUT}
    if wanted != set(task.values):
        raise ModelError(
            f"task {task.name} must have values of {', '.join(sorted(wanted)) or 'no input'}",
            found=", ".join(sorted(task.values)) or "none",
            fix="make it with task_of or own_task",
        )
    head = task.values.get(HEAD_WEIGHT)
    classes = session.outputs[OUTPUT].shape[-1] if head is None else head.shape[-1]
    if classes not in (None, len(task.labels)):
        raise ModelError(
            f"task {task.name} has {len(task.labels)} labels for {classes} classes", fix="name every class once"
        )


def _rows(tasks: Sequence[_Loaded]) -> dict[str, np.ndarray]:
    """Values of all tasks, one row each; raises ConfigError where they have different numbers of prompts."""
    found: dict[str, np.ndarray] = {}
    classes = max(len(task.labels) for task in tasks)
    values = {task.name: task.held.values for task in tasks}
    for name in values[tasks[0].name]:
        arrays = [values[task.name][name] for task in tasks]
        if name in (HEAD_WEIGHT, HEAD_BIAS):
            arrays = [_filled(array, classes) for array in arrays]
        if len({array.shape for array in arrays}) > 1:
            raise ConfigError(
                f"the tasks of one batch have different numbers of prompts at {name}",
                found=", ".join(f"{task.name} {array.shape[-2]}" for task, array in zip(tasks, arrays, strict=True)),
                fix="put tasks with equal numbers into a batch",
            )
        found[name] = np.concatenate(arrays)
    return found


def _filled(array: np.ndarray, classes: int) -> np.ndarray:
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, classes - array.shape[-1])])


def _listed(names: Sequence[str]) -> str:
    return f"tasks {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if names else "no task"
