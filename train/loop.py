"""The training loop: AdamW with separate rates for prompts and head, warm-up and cosine, resumable after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from apt_edge.errors import AptEdgeError
from apt_edge.methods.tuned import TunedModel
from train.cache import CachedViews
from train.checkpoint import load_checkpoint, save_checkpoint
from train.recipe import Optim, Recipe
from train.runlog import RunLog


class DivergedError(AptEdgeError):
    """The loss is not a number."""


class Source(Protocol):
    """Where batches come from: `FreshClips` or `CachedViews`."""

    size: int
    batch: int

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and classes, in the order of that epoch."""

    def logits(self, model: TunedModel, inputs: Tensor) -> Tensor:
        """Logits of such inputs."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: means over its clips, rates of its last step. Validation is None in epochs without one."""

    epoch: int
    loss: float
    accuracy: float
    prompt_lr: float
    head_lr: float
    clips_per_second: float
    val_loss: float | None = None
    val_accuracy: float | None = None


def parameter_groups(model: TunedModel, optim: Optim) -> list[dict[str, object]]:
    """Groups for AdamW with `peak_lr`: prompts and head, each with and without weight decay."""
    groups: dict[tuple[bool, bool], dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prompt = name.startswith("method.")
        # A decayed scale falls below 1, where max(s, 1) has no gradient: it would never come back.
        scale = name == "method.scale" and not optim.official_parity
        decayed = parameter.ndim > 1 and not name.endswith("bias") and not scale
        settings = {
            "name": f"{'prompts' if prompt else 'head'}, {'decayed' if decayed else 'not decayed'}",
            "peak_lr": optim.prompt_lr if prompt else optim.head_lr,
            "weight_decay": optim.weight_decay if decayed else 0.0,
            "params": [],
        }
        parameters = groups.setdefault((prompt, decayed), settings)["params"]
        assert isinstance(parameters, list)
        parameters.append(parameter)
    return list(groups.values())


def lr_factor(step: int, steps: int, warmup_steps: int, min_ratio: float) -> float:
    """Rate at a step (from 0) as a part of the peak: straight from 0 over the warm-up, then a cosine to `min_ratio`."""
    if step < warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return min_ratio + 0.5 * (1 - min_ratio) * (1 + math.cos(math.pi * done))


def fit(
    model: TunedModel, train: Source, val: Source, recipe: Recipe, folder: Path, resume: bool = False
) -> list[EpochRecord]:
    """Train to the recipe's last epoch; `folder` receives the logs and, after each epoch, `checkpoint.pt`.

    With `resume` a checkpoint in `folder` is continued; on a CPU the result is the same to the bit.

    Raises:
        DivergedError: the loss is not a number.
        ConfigError: the checkpoint belongs to another recipe.
    """
    optim = recipe.optim
    optimiser = torch.optim.AdamW(parameter_groups(model, optim), lr=0.0, betas=optim.betas)
    checkpoint = folder / "checkpoint.pt"
    history: list[EpochRecord] = []
    if resume and checkpoint.is_file():
        history = [EpochRecord(**record) for record in load_checkpoint(checkpoint, model, optimiser, recipe)]
    done = len(history)
    bar = tqdm(total=optim.epochs * train.size, initial=done * train.size, unit="clip", disable=None)
    with bar, _threads(train), RunLog(folder, [asdict(record) for record in history]) as log:
        for epoch in range(done, optim.epochs):
            bar.set_description(f"epoch {epoch + 1}/{optim.epochs}")
            try:
                record = _one_epoch(model, train, val, recipe, optimiser, epoch, bar)
            except DivergedError:
                checkpoint.unlink(missing_ok=True)  # going on from it would end in the same place
                raise
            history.append(record)
            log.write(asdict(record))
            if record.val_accuracy is not None:
                bar.write(
                    f"epoch {epoch + 1:3d}/{optim.epochs}  loss {record.loss:.4f}  accuracy {record.accuracy:.1%}  "
                    f"validation {record.val_accuracy:.1%}  {record.clips_per_second:.0f} clips/s",
                    file=log.stream,
                )
            save_checkpoint(checkpoint, model, optimiser, recipe, [asdict(r) for r in history])
    return history


@contextmanager
def _threads(source: Source) -> Iterator[None]:
    """One thread while the head alone is trained on kept means: more would wait longer than they compute."""
    before = torch.get_num_threads()
    if isinstance(source, CachedViews) and source.tokens_MVNC.shape[2] == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_epoch(
    model: TunedModel, train: Source, val: Source, recipe: Recipe, optimiser: torch.optim.AdamW, epoch: int, bar: tqdm
) -> EpochRecord:
    optim = recipe.optim
    # Seeding each epoch anew makes dropout a function of (seed, epoch): a resumed run needs no random state.
    torch.manual_seed(int(np.random.SeedSequence([recipe.seed, epoch]).generate_state(1)[0]))
    device = next(model.parameters()).device
    per_epoch = math.ceil(train.size / train.batch)
    warmup = round(optim.warmup_epochs * per_epoch)
    model.train()
    began, loss_sum, right, seen = time.perf_counter(), 0.0, 0, 0
    for number, (inputs, labels) in enumerate(train.batches(epoch)):
        step = epoch * per_epoch + number
        factor = lr_factor(step, optim.epochs * per_epoch, warmup, optim.min_lr_ratio)
        for group in optimiser.param_groups:
            group["lr"] = factor * group["peak_lr"]
        labels = labels.to(device)
        logits = train.logits(model, inputs.to(device))
        loss = F.cross_entropy(logits, labels, label_smoothing=optim.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} at step {step} (epoch {epoch + 1})",
                found=f"prompt_lr {factor * optim.prompt_lr:.3g}, head_lr {factor * optim.head_lr:.3g}",
                fix="lower optim.prompt_lr or optim.head_lr, or lengthen optim.warmup_epochs",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        seen += len(labels)
        loss_sum += value * len(labels)
        right += int((logits.argmax(1) == labels).sum())
        bar.set_postfix(loss=f"{loss_sum / seen:.3f}", accuracy=f"{right / seen:.1%}", refresh=False)
        bar.update(len(labels))
    speed = seen / (time.perf_counter() - began)
    val_loss, val_accuracy = None, None
    if (epoch + 1) % optim.validate_every == 0 or epoch + 1 == optim.epochs:
        val_loss, val_accuracy = validate(model, val)
    rates = (factor * optim.prompt_lr, factor * optim.head_lr)
    return EpochRecord(epoch + 1, loss_sum / seen, right / seen, *rates, speed, val_loss, val_accuracy)


def validate(model: TunedModel, source: Source) -> tuple[float, float]:
    """Mean cross-entropy (no smoothing) and accuracy; the model's mode is left as it was."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss_sum, right = 0.0, 0
    try:
        with torch.no_grad():
            for inputs, labels in source.batches(0):
                labels = labels.to(device)
                logits = source.logits(model, inputs.to(device))
                loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
                right += int((logits.argmax(1) == labels).sum())
    finally:
        model.train(was_training)
    return loss_sum / source.size, right / source.size
