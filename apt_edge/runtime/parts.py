"""The parts of a model as sessions: a split model's in their order, or the whole as its only one.

Shapes: t frames of a tubelet, S size, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from apt_edge.errors import ModelError
from apt_edge.runtime.model_dir import INPUT, ModelDir
from apt_edge.runtime.session import Held, HoldingSession
from apt_edge.runtime.sessions import SESSIONS, open_session, session_name
from apt_edge.runtime.tasks import Task

PATCHES = "patches"


class Part(NamedTuple):
    """A piece of the graph; `entry` is the input that the piece before gives, `exit` the output that goes on."""

    session: HoldingSession
    entry: str
    exit: str

    def values(self, task: Task) -> dict[str, np.ndarray]:
        """What this piece takes of a task."""
        return {name: array for name, array in task.values.items() if name in self.session.inputs}

    def run(self, value: np.ndarray, held: Held) -> np.ndarray:
        """From the entry's value to the exit's."""
        return self.session.run({self.entry: value}, held)[self.exit]


def open_parts(model: ModelDir, threads: int | None = None) -> list[Part]:
    """Load a model in the runtime of its target; an engine is always whole.

    Raises:
        ModelError: a part is missing, has changed, or does not follow on the one before.
        AptEdgeError: the runtime is not installed.
    """
    if session_name(model) not in SESSIONS or not (paths := model.parts()):
        session = open_session(model, threads)
        return [Part(session, INPUT, next(iter(session.outputs)))]
    sessions = [SESSIONS[session_name(model)](path, threads) for path in paths]
    entry, parts = INPUT, []
    for session in sessions:
        if entry not in session.inputs:
            raise ModelError(
                f"the parts of {model.path} do not follow on each other",
                found=f"{entry}, then {', '.join(session.inputs)}",
                fix="export again",
            )
        parts.append(Part(session, entry, next(iter(session.outputs))))
        entry = parts[-1].exit
    return parts


def tubelet_of(parts: Sequence[Part]) -> int | None:
    """Frames that the first part takes where it embeds one tubelet; None where it takes whole clips."""
    if parts[0].exit != PATCHES:
        return None
    shape, dtype = parts[0].session.inputs[INPUT]
    return shape[1] if dtype == np.uint8 else shape[2]


def shared_parts(parts: Sequence[Part], tasks: Sequence[Task]) -> int:
    """How many parts come before the first one that takes prompts or a head of a task: all tasks share them."""
    for index, part in enumerate(parts[:-1]):
        if any(array.size for task in tasks for array in part.values(task).values()):
            return index
    return len(parts) - 1
