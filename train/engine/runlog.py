"""What a run says of each epoch: a record, as one JSON line, for TensorBoard and for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: means over its clips, rates of its last step, seconds of training up to its end with all resumptions.

    Clips that cannot be read count nowhere but, as wrong, in `val_accuracy`. `waiting` is the share of the steps' time
    in which there was no batch to compute. Validation is None in epochs without one.
    """

    epoch: int
    loss: float
    accuracy: float
    method_lr: float
    head_lr: float
    clips_per_second: float
    waiting: float
    seconds: float
    val_loss: float | None = None
    val_accuracy: float | None = None

    def line(self, epochs: int) -> str:
        """For people: what a validated epoch of so many has brought."""
        return (
            f"epoch {self.epoch:3d}/{epochs}  loss {self.loss:.4f}  accuracy {self.accuracy:.1%}  "
            f"validation {self.val_accuracy:.1%}  {self.clips_per_second:.3g} clips/s, {self.waiting:.0%} waiting"
        )


def kept_epoch(history: Sequence[EpochRecord], keep: str) -> EpochRecord:
    """The epoch whose weights a finished run has: the last one, or the first of the best validated."""
    if keep == "last":
        return history[-1]
    return max((record for record in history if record.val_accuracy is not None), key=lambda r: r.val_accuracy or 0.0)


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
