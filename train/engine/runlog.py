"""Logs of a run: one JSON line an epoch, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Writes `metrics.jsonl` and `tensorboard/` in a folder; a context manager.

    Args:
        folder: of the run.
        history: records of the epochs that a resumed run has behind it; lines after them are dropped.
    """

    def __init__(self, folder: Path, history: list[dict[str, Any]]) -> None:
        self._lines = (folder / "metrics.jsonl").open("w", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(history) + 1 if history else None)
        for record in history:
            self._lines.write(json.dumps(record) + "\n")

    def write(self, record: dict[str, Any]) -> None:
        """Log one epoch; `record` has `epoch` and numbers, None for what was not measured."""
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()
        for name, value in record.items():
            if name != "epoch" and value is not None:
                self._board.add_scalar(name, value, record["epoch"])

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lines.close()
        self._board.close()
