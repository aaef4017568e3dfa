"""Accuracy of a pack on videos: `python -m train.evaluate runs/x/pack.safetensors --list val.csv --views 5x3`."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.folded import FoldedModel, folded_model
from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, VideoError, run_tool
from apt_edge.files import as_text, atomic, write_json
from apt_edge.pack import PromptPack
from apt_edge.runtime.machine import versions
from apt_edge.video.decode import DECODERS
from apt_edge.video.lists import FORMATS, match_labels, read_list
from apt_edge.video.views import Views
from train.devices import add_device_arguments, choose_device
from train.engine.data import Clips, require_classes
from train.plots import save_confusion, save_per_class
from train.scoring import Verdict, verdicts, write_predictions


@dataclass(frozen=True)
class Evaluation:
    """What videos say about a pack; accuracies are parts of 1.

    Attributes:
        verdicts: on every video of the list, those that cannot be read included.
        skip_bad: leave these out of every number; else they count as wrong.
        labels: class names.
        views: of each video.
        preprocessing: what turned files into clips, with a `fingerprint` of it all.
    """

    verdicts: Sequence[Verdict]
    skip_bad: bool
    labels: Sequence[str]
    views: Views
    preprocessing: dict[str, Any]

    @property
    def counted(self) -> list[Verdict]:
        """The videos that the numbers are about."""
        return [verdict for verdict in self.verdicts if not (self.skip_bad and verdict.reason)]

    @property
    def per_class(self) -> dict[str, tuple[int, int]]:
        """Videos and right ones of each class that occurs."""
        seen = [verdict.label for verdict in self.counted]
        right = [verdict.label for verdict in self.counted if verdict.right]
        clips_K, right_K = (np.bincount(labels, minlength=len(self.labels)).tolist() for labels in (seen, right))
        return {name: (clips_K[k], right_K[k]) for k, name in enumerate(self.labels) if clips_K[k]}

    @property
    def confusion(self) -> np.ndarray:
        """`[K, K]` counts of the videos that can be read, rows true, columns predicted."""
        confusion_KK = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        for verdict in self.counted:
            if verdict.top:
                confusion_KK[verdict.label, verdict.top[0]] += 1
        return confusion_KK

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready.

        `accuracy_top5` with fewer than five classes is 1 for what can be read. `accuracy_shuffled` is top-1 on the same
        frames in random order; near `accuracy`, single frames tell the classes. It is None for several views.
        `accuracy_per_class` is the mean of `per_class`. `unreadable` is a count.
        """
        counted = self.counted
        per_class = {name: right / clips for name, (clips, right) in self.per_class.items()}
        shuffled = [verdict.shuffled == verdict.label for verdict in counted]
        return {
            "clips": len(counted),
            "views": str(self.views),
            "accuracy": sum(verdict.right for verdict in counted) / len(counted),
            "accuracy_top5": sum(verdict.label in verdict.top for verdict in counted) / len(counted),
            "accuracy_shuffled": sum(shuffled) / len(counted) if self.views == Views() else None,
            "accuracy_per_class": sum(per_class.values()) / len(per_class),
            "per_class": per_class,
            "unreadable": sum(bool(verdict.reason) for verdict in self.verdicts),
            "skip_bad": self.skip_bad,
            "preprocessing": self.preprocessing,
        }


def evaluate(
    model: FoldedModel,
    clips: Clips,
    labels: Sequence[str],
    device: torch.device,
    workers: int = 0,
    views: Views = Views(),  # noqa: B008, it is frozen
    skip_bad: bool = False,
) -> Evaluation:
    """Score every video of a list, whose items all have a class; softmax is averaged over the views.

    Raises:
        ConfigError: the clips have no such views.
        VideoError: not one video can be read.
    """
    views.check(clips.spec)
    found = verdicts(model, clips, views, device, workers)
    seen = list(tqdm(found, total=len(clips), desc="evaluation", unit="video", disable=None))
    if all(verdict.reason for verdict in seen):
        raise VideoError(
            f"none of the {len(seen)} videos can be read",
            found=f"{seen[0].path}: {seen[0].reason}",
            fix="check the paths: --root, or data.root of a recipe, is the folder that relative ones start at",
        )
    return Evaluation(seen, skip_bad, labels, views, preprocessing(clips.spec, views, clips.decoder))


def preprocessing(spec: ClipSpec, views: Views, decoder: str) -> dict[str, Any]:
    """What turns files into a model's input; equal fingerprints are equal settings and equal software."""
    packages = ("av", "numpy", *(("decord2", "decord") if decoder == "decord" else ()))
    said = {"clip": spec.to_dict(), "views": str(views), "decoder": decoder, "versions": versions(packages)}
    return {**said, "fingerprint": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def save_evaluation(
    evaluation: Evaluation, folder: Path, name: str = "evaluation", predictions: Path | None = None
) -> None:
    """Write predictions.jsonl, per_class.csv, per_class.png and confusion.png.

    Args:
        evaluation: what to write.
        folder: where to.
        name: of the JSON that they stand beside: of `on-train`, they are on-train.predictions.jsonl and so on.
        predictions: another place for these.
    """
    prefix = "" if name == "evaluation" else f"{name}."
    place = predictions or folder / f"{prefix}predictions.jsonl"
    write_predictions(place, evaluation.verdicts, evaluation.labels, evaluation.views)
    per_class = evaluation.per_class
    with (
        atomic(folder / f"{prefix}per_class.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["class", "clips", "right", "accuracy"])
        table.writerows([as_text(name), clips, right, right / clips] for name, (clips, right) in per_class.items())
    save_per_class(
        {name: right / clips for name, (clips, right) in per_class.items()}, folder / f"{prefix}per_class.png"
    )
    save_confusion(evaluation.confusion, evaluation.labels, folder / f"{prefix}confusion.png")


def describe(evaluation: Evaluation) -> str:
    """A few lines for people."""
    result = evaluation.to_dict()
    worst = sorted(result["per_class"].items(), key=lambda pair: pair[1])[:3]
    lines = [
        f"clips              {result['clips']}, {result['views']} views",
        f"accuracy           {result['accuracy']:.1%}  (top-5 {result['accuracy_top5']:.1%})",
        f"mean over classes  {result['accuracy_per_class']:.1%}",
    ]
    if result["accuracy_shuffled"] is not None:
        lines.append(f"frames shuffled    {result['accuracy_shuffled']:.1%}")
    if result["unreadable"]:
        counted = "left out" if evaluation.skip_bad else "counted as wrong"
        lines.append(f"unreadable         {result['unreadable']}, {counted}")
    lines.append(f"weakest classes    {', '.join(f'{as_text(label)} {part:.0%}' for label, part in worst)}")
    lines.append(f"preprocessing      {result['preprocessing']['fingerprint'][:12]}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train.evaluate", description=__doc__)
    parser.add_argument("pack", help="pack.safetensors of a run; it decides clip and labels")
    parser.add_argument("--list", required=True, help="list file, or the root folder of a data set")
    parser.add_argument("--part", choices=["train", "val", "test"], default="val", help="default %(default)s")
    parser.add_argument("--views", help="clips along time x crops, such as 5x3; default: those of the pack's run")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read; else it is wrong")
    parser.add_argument("--format", choices=FORMATS, help="of the list; default: that of the pack's run, or found out")
    parser.add_argument(
        "--split", type=int, choices=[1, 2, 3], help="of UCF101 and HMDB51; default: that of the pack's run"
    )
    parser.add_argument("--labels", help="file of class names, default: found beside the list")
    parser.add_argument("--root", help="folder that relative paths start at, default: found out")
    parser.add_argument("--decoder", choices=DECODERS, help="of video files; default: that of the pack's run")
    parser.add_argument("--backbone", help="backbone weights, if they are not where the pack's run had them")
    parser.add_argument(
        "--out",
        type=Path,
        help="write the figures here as JSON, in a folder as evaluation.json; tables and pictures go beside it",
    )
    parser.add_argument("--predictions", type=Path, help="write predictions here, as a table if it ends in .csv")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_arguments(parser)
    return parser.parse_args()


def _as_the_run(arguments: argparse.Namespace, training: Mapping[str, Any]) -> None:
    """Give split, decoder and format the values that the pack's run had, where no others are asked for."""
    for name, usual in (("split", 1), ("decoder", "pyav"), ("format", None)):
        of_run, asked = training.get(name, usual), getattr(arguments, name)
        if asked is None:
            setattr(arguments, name, of_run)
        elif of_run not in (None, asked):
            what = "; it may have trained on these videos" if name == "split" else ""
            said = f"the {name} of the pack's run is {of_run}, that of this evaluation {asked}{what}"
            print(f"train.evaluate: warning: {said}", file=sys.stderr)


def _out_file(path: Path) -> Path:
    """Where the figures go; raises ConfigError where they would replace those of the tuning run."""
    path = path / "evaluation.json" if path.is_dir() else path
    if path.name == "evaluation.json" and (path.parent / "recipe.toml").exists():
        raise ConfigError(
            f"{path} is what the tuning run measured",
            fix=f"name another file, such as {path.with_name('again.json')}",
        )
    return path


def _require_writable(path: Path) -> None:
    """Make the folder of a file; raises ConfigError or OSError when the file could not be written there."""
    wrong = path if path.is_dir() else path.parent
    if path.is_dir() or (wrong.exists() and not wrong.is_dir()):
        raise ConfigError(f"{path} cannot be written", found=f"{wrong} is a {'folder' if path.is_dir() else 'file'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=path.parent):
        pass


def main() -> None:
    """Parse, evaluate, print."""
    arguments = _arguments()
    device = choose_device(arguments.device)
    out = _out_file(arguments.out) if arguments.out else None
    for path in filter(None, (out, arguments.predictions)):
        _require_writable(path)
    pack = PromptPack.load(arguments.pack)
    _as_the_run(arguments, pack.training)
    views = Views.parse(arguments.views or pack.training.get("views", "1x1"))
    views.check(pack.clip)
    videos = read_list(
        arguments.list,
        arguments.part,
        format=arguments.format,
        split=arguments.split,
        labels=arguments.labels,
        root=arguments.root,
    )
    videos = match_labels(videos, pack.labels)
    for note in videos.notes:
        print(f"train.evaluate: {note}", file=sys.stderr)
    fix = "give a list with classes: --part val where the test part has none"
    require_classes(arguments.list, videos.items, fix)
    backbone = arguments.backbone or pack.backbone.name
    model = folded_model(pack, load_backbone(backbone), backbone, arguments.pack).to(device)
    clips = Clips(videos.items, pack.clip, decoder=arguments.decoder)
    evaluation = evaluate(model, clips, pack.labels, device, arguments.workers, views, arguments.skip_bad)
    result = {"pack": arguments.pack, "list": arguments.list, "method": pack.method, **evaluation.to_dict()}
    if out:
        write_json(out, result)
        save_evaluation(evaluation, out.parent, out.name.removesuffix(".json"), arguments.predictions)
    elif arguments.predictions:
        write_predictions(arguments.predictions, evaluation.verdicts, pack.labels, views)
    print(json.dumps(result, indent=2) if arguments.json else describe(evaluation))


if __name__ == "__main__":
    run_tool(main, "train.evaluate")
