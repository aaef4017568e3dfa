"""Loss and accuracy of a model on the validation clips, while it is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from train.engine.source import Source


def validate(
    model: torch.nn.Module, source: Source, accelerator: Accelerator, skip_bad: bool = False
) -> tuple[float, float]:
    """Mean cross-entropy (no smoothing) and accuracy over all processes; the model's mode is left as it was.

    A clip that cannot be read has no loss and counts as wrong; with `skip_bad` it is left out of the accuracy too.

    Raises:
        VideoError: no clip can be read.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, device=accelerator.device)  # loss, right answers, clips that were read, all clips
    try:
        with torch.no_grad():
            for sample in source.batches():
                sums[3] += len(sample.place)
                readable = sample.readable
                if not readable.any():
                    continue
                labels = sample.labels[readable, 0]
                logits = model(sample.views[readable, 0], from_prefix=source.from_prefix)
                loss = F.cross_entropy(logits, labels, reduction="sum")
                sums[:3] += torch.stack([loss, (logits.argmax(1) == labels).sum(), loss.new_tensor(len(labels))])
    finally:
        model.train(was_training)
    loss_sum, right, read, clips = accelerator.reduce(sums, "sum").tolist()
    if not read:
        raise source.unreadable.nothing_left("the validation list")
    return loss_sum / read, right / (read if skip_bad else clips)
