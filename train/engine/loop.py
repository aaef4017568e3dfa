"""The training loop: each step depends on (recipe, step) alone, so that a run can be resumed at any of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from apt_edge.errors import AptEdgeError
from apt_edge.methods.tuned import TunedModel
from train.engine.checkpoint import checkpoints, save_checkpoint
from train.engine.data import Sample
from train.engine.optim import adamw, lr_factor
from train.engine.runlog import EpochRecord, RunLog
from train.engine.source import Source
from train.engine.validation import validate
from train.recipe import Recipe

IGNORED = -100  # the class that `cross_entropy` passes over
FIRST_TRIED = 64  # clips of a shuffled list: when none of them can be read, hardly any can


class DivergedError(AptEdgeError):
    """The loss is not a number."""


def fit(
    model: TunedModel,
    train: Source,
    val: Source,
    recipe: Recipe,
    folder: Path,
    accelerator: Accelerator,
    *,
    state: dict[str, Any] | None = None,
    checkpoint_minutes: float = 5.0,
    skip_bad: bool = False,
) -> list[EpochRecord]:
    """Train as the recipe says and leave the weights it asks for in `model`; returns the epochs.

    `folder` receives the logs and, after each epoch and every `checkpoint_minutes`, a checkpoint. With the `state` of
    one it is continued; on a CPU the result is the same to the bit. A clip that cannot be read weighs nothing in its
    step, and the other clips no more than they would beside it; `skip_bad` leaves it out of the validation accuracy.

    Raises:
        DivergedError: the loss or a weight is not a number; the last checkpoint stays.
        VideoError: nothing can be read of the first 64 clips, or of a whole epoch or validation.
        AptEdgeError: a checkpoint cannot be written.
    """
    return _Fit(model, train, val, recipe, folder, accelerator, checkpoint_minutes, skip_bad, state).run()


class _Fit:
    """The state of one run between two steps."""

    def __init__(
        self,
        model: TunedModel,
        train: Source,
        val: Source,
        recipe: Recipe,
        folder: Path,
        accelerator: Accelerator,
        checkpoint_minutes: float,
        skip_bad: bool,
        state: dict[str, Any] | None,
    ) -> None:
        self.model, self.train, self.val, self.recipe, self.folder = model, train, val, recipe, folder
        self.accelerator, self.checkpoint_seconds, self.skip_bad = accelerator, 60 * checkpoint_minutes, skip_bad
        self.wrapped, self.optimiser = accelerator.prepare(model, adamw(model, recipe.optim))
        self.history: list[EpochRecord] = []
        self.step = 0
        self.sums = [0.0, 0.0, 0.0]  # loss, right answers and clips of the epoch so far
        self.best: dict[str, Any] | None = None
        self.seconds, self.began = 0.0, time.monotonic()
        self.saved = self.began
        if state:
            self._continue(state)

    def run(self) -> list[EpochRecord]:
        optim, order = self.recipe.optim, self.train.order
        size = optim.batch * order.samples
        main = self.accelerator.is_main_process
        bar = tqdm(
            total=optim.epochs * order.steps * size,
            initial=self.step * size,
            unit="clip",
            disable=None if main else True,
        )
        logs = RunLog(self.folder, [asdict(r) for r in self.history]) if main else nullcontext()
        with bar, _threads(self.train), logs as log:
            while len(self.history) < optim.epochs and not self._stopped_early():
                bar.set_description(f"epoch {len(self.history) + 1}/{optim.epochs}")
                record = self._epoch(bar)
                self.history.append(record)
                self.sums = [0.0, 0.0, 0.0]
                if log:
                    log.write(asdict(record))
                    if record.val_accuracy is not None:
                        bar.write(record.line(optim.epochs), file=sys.stderr)
                self._save()
        if optim.keep == "best" and self.best:
            self._restore(self.best)
        return self.history

    def _epoch(self, bar: tqdm) -> EpochRecord:
        optim, order = self.recipe.optim, self.train.order
        order.epoch, order.first_step = len(self.history), self.step - len(self.history) * order.steps
        self.model.train()
        began, before = time.perf_counter(), self.sums[2]
        waits: list[float] = []
        parts: list[Tensor] = []
        for sample in _timed(self.train.batches(), waits):
            parts.append(self._part(len(parts), sample))
            if len(parts) < optim.accumulate:
                continue
            self._finish_step(torch.stack(parts).sum(0))
            parts = []
            read = max(1, self.sums[2])
            bar.set_postfix(loss=f"{self.sums[0] / read:.3f}", accuracy=f"{self.sums[1] / read:.1%}", refresh=False)
            bar.update(optim.batch * order.samples)
        seconds = time.perf_counter() - began
        self.train.unreadable.share()
        if not self.sums[2]:
            raise self.train.unreadable.nothing_left(f"epoch {len(self.history) + 1}")
        epoch = len(self.history) + 1
        validated: tuple[float, float] | tuple[None, None] = (None, None)
        if epoch % optim.validate_every == 0 or epoch == optim.epochs:
            validated = validate(self.model, self.val, self.accelerator, self.skip_bad)
            self.val.unreadable.share()
            self._note_best(validated[1])
        loss, right, clips = self.sums
        rates, speed = self._rates(self.step - 1), (clips - before) / seconds
        return EpochRecord(
            epoch, loss / clips, right / clips, *rates, speed, sum(waits) / seconds, self._elapsed(), *validated
        )

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def _part(self, part: int, sample: Sample) -> Tensor:
        """Forward and backward of one part of a step; returns its summed loss, right answers and clips that were read.

        The loss is divided by all clips: processes and parts then add up to the mean of a whole batch, whatever was
        unreadable where.
        """
        readable = sample.readable.repeat_interleave(self.train.order.samples)
        inputs, clips = sample.views.flatten(0, 1), len(readable)
        labels = torch.where(readable, sample.labels.flatten(), IGNORED)
        read = int(readable.sum())
        if read < clips:
            # Zeros would enter a batch norm's statistics. A single row does not, and keeps the processes in step.
            rows = readable if read else slice(1)
            inputs, labels = inputs[rows], labels[rows]
        # Seeding each step makes dropout a function of (seed, step): it needs no saved state, and the parts of a step
        # and its processes share the prompts' mask, as the whole batch would. Masks of single clips differ.
        own = [part, self.accelerator.process_index] if self.model.method.draws_per_clip else []
        torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, self.step, *own]).generate_state(1)[0]))
        for group in self.optimiser.param_groups:
            group["lr"] = self._factor(self.step) * group["peak_lr"]
        with self.accelerator.accumulate(self.wrapped):
            logits = self.wrapped(inputs, from_prefix=self.train.from_prefix)
            smoothing = self.recipe.optim.label_smoothing
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum") / clips
            right = (logits.argmax(1) == labels).sum()
            sums = torch.stack([loss.detach() * clips, right, loss.new_tensor(read)])
            sums = self.accelerator.reduce(sums, "sum")
            if not sums[0].isfinite():
                raise self._diverged(f"the loss is {sums[0].item()}")
            self.accelerator.backward(loss)
            if self.recipe.optim.clip_grad and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_grad)
            self.optimiser.step()
            self.optimiser.zero_grad()
        return sums

    def _finish_step(self, sums: Tensor) -> None:
        self.sums = [old + new for old, new in zip(self.sums, sums.tolist(), strict=True)]
        self.step += 1
        tried = self.step * self.recipe.optim.batch
        if tried >= FIRST_TRIED and not (self.sums[2] or self.history):
            raise self.train.unreadable.nothing_left(f"the first {tried}")
        within = self.step % self.train.order.steps
        if within and time.monotonic() - self.saved >= self.checkpoint_seconds:
            self._save()

    def _factor(self, step: int) -> float:
        optim, per_epoch = self.recipe.optim, self.train.order.steps
        return lr_factor(step, optim.epochs * per_epoch, round(optim.warmup_epochs * per_epoch), optim.min_lr_ratio)

    def _rates(self, step: int) -> tuple[float, float]:
        optim, factor = self.recipe.optim, self._factor(step)
        return factor * optim.method_lr, factor * optim.head_lr

    def _diverged(self, what: str) -> DivergedError:
        method_lr, head_lr = self._rates(self.step)
        kept = checkpoints(self.folder)
        return DivergedError(
            f"{what} at step {self.step} (epoch {self.step // self.train.order.steps + 1})",
            found=f"learning rates {method_lr:.3g} (method) and {head_lr:.3g} (head)"
            + (f"; the last good weights are in {kept[0]}" if kept else ""),
            fix="lower optim.base_lr or optim.head_base_lr, lengthen optim.warmup_epochs, or set optim.clip_grad",
        )

    def _note_best(self, accuracy: float) -> None:
        if self.best is None or accuracy > self.best["accuracy"]:
            keep = self.recipe.optim.keep == "best"
            self.best = {
                "accuracy": accuracy,
                "epoch": len(self.history) + 1,
                "weights": self._weights() if keep else {},
            }

    def _stopped_early(self) -> bool:
        patience = self.recipe.optim.early_stop
        if not patience or self.best is None:
            return False
        since = [r for r in self.history if r.val_accuracy is not None and r.epoch > self.best["epoch"]]
        return len(since) >= patience

    def _weights(self) -> dict[str, Tensor]:
        """What is trained, and the running figures of norms; not the frozen backbone."""
        tuned = self.model.method.tunes_backbone
        state = self.model.state_dict()
        return {n: t.detach().cpu().clone() for n, t in state.items() if tuned or not n.startswith("vit.")}

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["weights"], strict=False)

    def _save(self) -> None:
        weights = self._weights()
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise self._diverged("a weight is not a number any more")
        if self.accelerator.is_main_process:
            state = {
                "weights": weights,
                "seconds": self._elapsed(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "history": [asdict(record) for record in self.history],
                "sums": self.sums,
                "best": self.best,
                "unreadable": [self.train.unreadable.reasons, self.val.unreadable.reasons],
            }
            save_checkpoint(self.folder, self.step, self.recipe, state)
        self.saved = time.monotonic()

    def _continue(self, state: dict[str, Any]) -> None:
        self._restore(state)
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.step, self.sums, self.best = state["step"], state["sums"], state["best"]
        self.seconds = state["seconds"]
        for source, reasons in zip((self.train, self.val), state["unreadable"], strict=True):
            source.unreadable.add(reasons)


def _timed(samples: Iterator[Sample], waits: list[float]) -> Iterator[Sample]:
    """The same samples; the seconds until each came, and until the end, are added to `waits`."""
    asked = time.perf_counter()
    for sample in samples:
        waits.append(time.perf_counter() - asked)
        yield sample
        asked = time.perf_counter()
    waits.append(time.perf_counter() - asked)


@contextmanager
def _threads(source: Source) -> Iterator[None]:
    """One thread while the head alone is trained on kept means: more would wait longer than they compute."""
    before = torch.get_num_threads()
    if source.one_row:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
