"""Train a few prompts on a frozen backbone: `python -m train.tune train/recipes/demo-apt.toml` fills runs/demo-apt."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import VitConfig
from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import as_text, atomic, write_json
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel, make_pack
from apt_edge.pack import PromptPack
from apt_edge.video.views import Views
from train.advice import dead_scales, other_colours, read_evaluation, warning
from train.devices import add_device_arguments, choose_device, make_accelerator, spare_cores
from train.engine.checkpoint import load_checkpoint
from train.engine.data import Clips, leak, read_items
from train.engine.loop import fit
from train.engine.mirror import mirrored
from train.engine.runlog import EpochRecord, kept_epoch
from train.engine.source import Source, make_sources
from train.engine.unreadable import require_files
from train.evaluate import Evaluation, evaluate, save_evaluation
from train.plots import save_curves
from train.recipe import Recipe
from train.rundir import environment, run_folder


def tune(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    workers: int = 0,
    checkpoint_minutes: float = 5.0,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Train, fold, evaluate the folded pack, and leave a finished run in `out`; returns its evaluation.

    The folder: recipe.toml, environment.json, metrics.jsonl, tensorboard/, curves.png, pack.safetensors (folded),
    method.safetensors (the parameters as trained), evaluation.json and what `train.evaluate` writes beside it,
    unreadable.json (clips that were left out, and why). Until all is written it is called `<out>.partial`. Of several
    processes the first one writes and evaluates; the others return an empty evaluation.

    Clips that cannot be read are left out of training and count as wrong in every accuracy; with `skip_bad` they are
    left out there too.

    Raises:
        AptEdgeError: recipe, backbone, a video or the training itself is at fault.
    """
    optim = recipe.optim
    accelerator = make_accelerator(device or torch.device("cpu"), optim.precision, optim.accumulate)
    train_clips, val_clips, labels = _read_data(recipe, accelerator)
    model = build_model(recipe, len(labels))
    frozen = copy.deepcopy(model.vit) if model.method.tunes_backbone else model.vit
    model.to(accelerator.device)
    _warn(other_colours(recipe, frozen.config) if accelerator.is_main_process else "")
    with run_folder(out, resume, accelerator.is_main_process) as folder:
        state = load_checkpoint(folder, recipe) if resume else None
        if accelerator.is_main_process:
            (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
            write_json(folder / "environment.json", environment(accelerator.device, accelerator.num_processes))
        train, val = make_sources(model, recipe, train_clips, val_clips, accelerator, workers)
        history = fit(
            model,
            train,
            val,
            recipe,
            folder,
            accelerator,
            state=state,
            checkpoint_minutes=checkpoint_minutes,
            skip_bad=skip_bad,
        )
        if not accelerator.is_main_process:
            return {}
        save_curves(history, recipe.name, folder / "curves.png")
        pack = _save_trained(model, recipe, labels, history, folder)
        folded = folded_model(pack, frozen.cpu(), recipe.backbone, folder).to(accelerator.device)
        evaluation = evaluate(folded, val_clips, labels, accelerator.device, workers, _views(recipe), skip_bad)
        save_evaluation(evaluation, folder)
        bad = _unreadable(train, evaluation)
        write_json(folder / "unreadable.json", bad)
        result = {**_result(recipe, model, evaluation, history), "unreadable_training": len(bad["train"])}
        write_json(folder / "evaluation.json", result)
    return result


def _result(
    recipe: Recipe, model: TunedModel, evaluation: Evaluation, history: Sequence[EpochRecord]
) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "method": recipe.method["name"],
        **evaluation.to_dict(),
        **model.method.health(),
        "folds": model.method.folds,
        "deployed_as": model.method.deployment,
        "trainable_parameters": model.trainable_parameters(),
        "epochs": len(history),
        "seconds": round(history[-1].seconds, 1),
        "train_loss": kept_epoch(history, recipe.optim.keep).loss,
        "best_train_loss": min(record.loss for record in history),
    }


def _read_data(recipe: Recipe, accelerator: Accelerator) -> tuple[Clips, Clips, list[str]]:
    """Training and validation clips and the names of their classes; what reading found out is said on stderr."""
    data, spec = recipe.data, recipe.clip.spec()
    train = read_items(data, "train")
    val = read_items(data, "val", train.labels)
    for note in dict.fromkeys([*train.notes, *val.notes]) if accelerator.is_main_process else ():
        print(f"train.tune: {note}", file=sys.stderr)
    require_files({"training": train.items, "validation": val.items}, accelerator)
    shared = leak(data, train.items, val.items)
    _warn(shared if accelerator.is_main_process else "")
    mirror = mirrored(train.labels, recipe.augment.mirror)
    train_clips = Clips(train.items, spec, recipe.augment, recipe.seed, data.decoder, mirror)
    return train_clips, Clips(val.items, spec, decoder=data.decoder), train.labels


def _warn(message: str) -> None:
    if message:
        print(f"train.tune: warning: {message}", file=sys.stderr)


def _views(recipe: Recipe) -> Views:
    return Views(recipe.test.clips, recipe.test.crops)


def _unreadable(train: Source, evaluation: Evaluation) -> dict[str, list[dict[str, str]]]:
    """The final evaluation looks at every validation clip; it sees more frames of it than validation did."""
    bad = [verdict for verdict in evaluation.verdicts if verdict.reason]
    return {
        "train": train.unreadable.rows(),
        "val": [{"path": as_text(verdict.path), "reason": verdict.reason} for verdict in bad],
    }


def build_model(recipe: Recipe, classes: int) -> TunedModel:
    """Backbone, method and head as the recipe and its seed say.

    Raises:
        BackboneError: there are no such weights.
        ConfigError: the clip has not the backbone's sizes, or the method's blocks do not exist.
    """
    vit = load_backbone(recipe.backbone)
    mine, wanted = (recipe.clip.frames, recipe.clip.size), (vit.config.frames, vit.config.size)
    if mine != wanted:
        raise ConfigError(
            f"the recipe's clips have {mine[0]} frames at {mine[1]} pixels",
            found=f"the backbone {recipe.backbone} takes {wanted[0]} frames at {wanted[1]} pixels",
            fix=f"set clip.frames = {wanted[0]} and clip.size = {wanted[1]}",
        )
    torch.manual_seed(recipe.seed)
    method = METHODS[recipe.method["name"]](vit.config, **recipe.settings)
    return TunedModel(vit, method, classes)


def _save_trained(
    model: TunedModel, recipe: Recipe, labels: list[str], history: list[EpochRecord], folder: Path
) -> PromptPack:
    kept = kept_epoch(history, recipe.optim.keep)
    pack = make_pack(
        model,
        method=recipe.method["name"],
        settings=recipe.settings,
        clip=recipe.clip.spec(),
        labels=labels,
        backbone=recipe.backbone,
        # No times here: the same recipe gives the same pack.
        training={
            "recipe": recipe.name,
            "seed": recipe.seed,
            "epochs": len(history),
            "kept_epoch": kept.epoch,
            "train_loss": kept.loss,
            "val_accuracy": kept.val_accuracy,
            **_measured_as(recipe, model.vit.config),
            **model.method.health(),
        },
    )
    pack.save(folder / "pack.safetensors")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.method.state_dict().items()}
    with atomic(folder / "method.safetensors") as temporary:
        save_file(state, temporary, metadata={key: json.dumps(value) for key, value in recipe.method.items()})
    return PromptPack.load(folder / "pack.safetensors")


def _measured_as(recipe: Recipe, config: VitConfig) -> dict[str, Any]:
    """What `val_accuracy` is an accuracy of: another evaluation of the pack takes its defaults from here."""
    data = recipe.data
    said: dict[str, Any] = {"views": str(_views(recipe)), "split": data.split, "decoder": data.decoder}
    if data.format:
        said["format"] = data.format
    if config.family == "clip":
        form = "per-frame" if config.per_frame else "joint"
        said |= {"family": config.family, "form": f"{form}, apt-edge's own definition"}
    return said


def default_workers(recipe: Recipe) -> int:
    """Decoding processes of a run: none where each clip is decoded only once, its augmented views being kept."""
    return 0 if recipe.augment.views and recipe.cache.use else spare_cores()


def main() -> None:
    """Parse, tune, print."""
    parser = argparse.ArgumentParser(prog="train.tune", description=__doc__)
    parser.add_argument("recipe", help="a recipe, see train/recipes")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one setting")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="root folder of a data set, or a table, with both its parts: takes the place of data.train and data.val, "
        "even after --set, and clears data.labels",
    )
    parser.add_argument("--out", help="folder of the run, default runs/<name>; a finished run there is replaced")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run, if there is one")
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=5.0,
        help="save a checkpoint so often, and after every epoch (default 5)",
    )
    parser.add_argument("--compare", metavar="RUN", help="warn when accuracy ends below this finished run's")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave unreadable clips out of accuracies; else they count as wrong"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_arguments(parser, by_recipe=True)
    arguments = parser.parse_args()
    recipe = load_toml(arguments.recipe, Recipe, arguments.set)
    if arguments.data:
        data = recipe.data.model_copy(update={"train": arguments.data, "val": arguments.data, "labels": None})
        recipe = recipe.model_copy(update={"data": data})
    other = read_evaluation(arguments.compare) if arguments.compare else None
    out = Path(arguments.out or f"runs/{recipe.name}")
    device = choose_device(arguments.device)
    result = tune(
        recipe,
        out,
        resume=arguments.resume,
        device=device,
        workers=default_workers(recipe) if arguments.workers is None else arguments.workers,
        checkpoint_minutes=arguments.checkpoint_minutes,
        skip_bad=arguments.skip_bad,
    )
    if not result:  # one of several processes; the first one speaks
        return
    _warn(dead_scales(result))
    _warn(warning(recipe, result, other) if other else "")
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        shuffled = result["accuracy_shuffled"]
        print(
            f"{out}: accuracy {result['accuracy']:.1%}"
            + (f" ({result['views']} views), " if shuffled is None else f", frames shuffled {shuffled:.1%}, ")
            + f"{result['trainable_parameters']:,} parameters trained in {result['seconds']:.0f} s\n"
            f"{'folds into' if result['folds'] else 'does not fold; exported as'} {result['deployed_as']}"
        )


if __name__ == "__main__":
    run_tool(main, "train.tune")
