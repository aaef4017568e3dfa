"""Accuracy of a pack on a list of videos: `python -m train.evaluate runs/x/pack.safetensors --list val.csv`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.errors import run_tool
from apt_edge.files import write_json
from apt_edge.pack import PromptPack
from train.devices import add_device_arguments, choose_device
from train.engine.data import Clips, batches, load, read_items, shuffle_frames
from train.engine.order import FORWARD_BATCH, Order
from train.plots import save_confusion


@dataclass(frozen=True)
class Evaluation:
    """What a list of videos says about a pack; accuracies are parts of 1.

    Attributes:
        accuracy, accuracy_top5: over all clips (top-5 with fewer than five classes is 1).
        accuracy_shuffled: top-1 on the same frames in random order; near `accuracy`, single frames tell the classes.
        per_class: top-1 of each class that occurs.
        confusion: `[K, K]` counts, rows true, columns predicted.
    """

    clips: int
    accuracy: float
    accuracy_top5: float
    accuracy_shuffled: float
    per_class: dict[str, float]
    confusion: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the confusion counts."""
        return {key: value for key, value in vars(self).items() if key != "confusion"}


def evaluate(model: FoldedModel, clips: Clips, labels: Sequence[str], device: torch.device, workers: int) -> Evaluation:
    """Run every clip of a list, in its own order and with shuffled frames.

    Raises:
        VideoError: a clip cannot be read.
    """
    classes = len(labels)
    confusion_KK = np.zeros((classes, classes), dtype=np.int64)
    in_top5, right_shuffled = 0, 0
    loader = load(clips, Order(len(clips), FORWARD_BATCH, None), workers)
    with torch.no_grad(), tqdm(total=len(clips), desc="evaluation", unit="clip", disable=None) as bar:
        for sample in batches(loader):
            clip_BCTHW = sample.views[:, 0]
            shuffled_BCTHW = shuffle_frames(clip_BCTHW, sample.place)
            logits_BK = model(clip_BCTHW.to(device)).cpu()
            np.add.at(confusion_KK, (sample.label.numpy(), logits_BK.argmax(1).numpy()), 1)
            top5 = logits_BK.topk(min(5, classes), dim=1).indices
            in_top5 += int((top5 == sample.label[:, None]).any(1).sum())
            right_shuffled += int((model(shuffled_BCTHW.to(device)).cpu().argmax(1) == sample.label).sum())
            bar.update(len(sample.label))
    right_K, clips_K = confusion_KK.diagonal(), confusion_KK.sum(axis=1)
    return Evaluation(
        clips=len(clips),
        accuracy=int(right_K.sum()) / len(clips),
        accuracy_top5=in_top5 / len(clips),
        accuracy_shuffled=right_shuffled / len(clips),
        per_class={labels[k]: int(right_K[k]) / int(clips_K[k]) for k in range(classes) if clips_K[k]},
        confusion=confusion_KK,
    )


def describe(evaluation: Evaluation) -> str:
    """A few lines for people."""
    worst = sorted(evaluation.per_class.items(), key=lambda pair: pair[1])[:3]
    return "\n".join(
        [
            f"clips              {evaluation.clips}",
            f"accuracy           {evaluation.accuracy:.1%}  (top-5 {evaluation.accuracy_top5:.1%})",
            f"frames shuffled    {evaluation.accuracy_shuffled:.1%}",
            f"weakest classes    {', '.join(f'{label} {part:.0%}' for label, part in worst)}",
        ]
    )


def main() -> None:
    """Parse, evaluate, print."""
    parser = argparse.ArgumentParser(prog="train.evaluate", description=__doc__)
    parser.add_argument("pack", help="pack.safetensors of a run; it decides clip and labels")
    parser.add_argument("--list", required=True, help="list of `video class` lines")
    parser.add_argument("--backbone", help="backbone weights, if they are not where the pack's run had them")
    parser.add_argument("--out", help="write the figures here as JSON, and confusion.png beside it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_arguments(parser)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    pack = PromptPack.load(arguments.pack)
    backbone = arguments.backbone or pack.backbone.name
    model = folded_model(pack, load_backbone(backbone), backbone, arguments.pack).to(device)
    clips = Clips(read_items(arguments.list, pack.labels), pack.clip)
    evaluation = evaluate(model, clips, pack.labels, device, arguments.workers)
    result = {"pack": arguments.pack, "list": arguments.list, "method": pack.method, **evaluation.to_dict()}
    if arguments.out:
        write_json(arguments.out, result)
        save_confusion(evaluation.confusion, pack.labels, Path(arguments.out).with_name("confusion.png"))
    print(json.dumps(result, indent=2) if arguments.json else describe(evaluation))


if __name__ == "__main__":
    run_tool(main, "train.evaluate")
