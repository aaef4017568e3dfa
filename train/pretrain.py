"""Pre-train a small backbone on motion soup: every token predicts the kinematics of what its cell shows.

    python -m train.pretrain train/recipes/nano-motion.toml [--set lr=2e-3] [--resume] [--probe LISTS]

Writes into runs/<name>/: checkpoint.pt (resumable), backbone.safetensors (float16, always loadable), log.jsonl and
curve.png. The target head is linear on the plain output tokens, so that what it reads stays linear in the mean-pooled
feature; it is thrown away. Shapes: B batch, N tokens, C target channels.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from apt_edge.backbone.checkpoints import save_backbone
from apt_edge.backbone.vit import Vit, size_by_name
from apt_edge.clip import IMAGENET_MEAN, IMAGENET_STD, ClipSpec
from apt_edge.config import Strict, load_toml
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import atomic
from train.muon import Muon
from train.pretrain_curve import plot
from train.probe import Labelled, linear_probe, read_labelled
from train.synthetic.motion import CHANNELS, FRAMES, SIZE
from train.synthetic.stream import SoupStream

SPEC = ClipSpec(frames=FRAMES, size=SIZE, sampling="segments")
LOG_EVERY = 25
COVERED = 0.1  # standardised coverage from which a token counts as showing an object
OBJECT_PREFERENCE = 0.5  # head start of such tokens, against random numbers in 0..1
BETA = 3.0  # errors are squared up to here: the targets are sparse, and an absolute error would pull them to zero


class PretrainRecipe(Strict):
    """What a pre-training run is made of; see train/recipes/nano-motion.toml for the meaning of each key."""

    name: str
    size: str = "nano"
    seed: int = 0
    budget_minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    batch: int = Field(gt=0)
    repeats: int = Field(ge=1, le=16)
    lr: float = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    betas: list[float] = Field(min_length=2, max_length=2)
    clip_grad: float = Field(gt=0)
    keep: float = Field(gt=0, le=1)
    keep_until: float = Field(ge=0, le=1)
    object_weight: float = Field(ge=0)
    workers: int = Field(ge=0)
    checkpoint_minutes: float = Field(gt=0)
    probe_minutes: float = Field(gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> PretrainRecipe:
        if (self.budget_minutes is None) == (self.steps is None):
            raise ValueError("give exactly one of budget_minutes and steps")
        return self


class Pretraining:
    """The state of a run: backbone, target head, optimisers, and how far it is."""

    def __init__(self, recipe: PretrainRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.vit = Vit(size_by_name(recipe.size)).to(self.device)
            self.head = nn.Linear(self.vit.config.width, len(CHANNELS)).to(self.device)
        matrices = [p for p in self.vit.blocks.parameters() if p.ndim == 2]
        inside = {id(p) for p in matrices}
        others = [p for p in (*self.vit.parameters(), *self.head.parameters()) if id(p) not in inside]
        beta1, beta2 = recipe.betas
        decay = recipe.weight_decay
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=recipe.lr, betas=(beta1, beta2), fused=True),
            Muon(matrices, lr=recipe.lr, weight_decay=decay),
        ]
        self.parameters = [*matrices, *others]
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        if self.recipe.steps is not None:
            return min(1.0, self.step / self.recipe.steps)
        return min(1.0, self.seconds / (60 * (self.recipe.budget_minutes or 1.0)))

    def train_step(self, frames: Tensor, targets: Tensor) -> dict[str, float]:
        """One optimiser step; returns the loss and the squared error and power of every channel."""
        lr = self.recipe.lr * schedule(self.progress, self.recipe.warmup)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
        tokens = self.vit.embed(normalised(frames.to(self.device)))
        targets = targets.to(self.device)
        if self.progress < self.recipe.keep_until and self.recipe.keep < 1:
            kept = self._kept(targets)[..., None]
            tokens = tokens.gather(1, kept.expand(-1, -1, tokens.shape[2]))
            targets = targets.gather(1, kept.expand(-1, -1, targets.shape[2]))
        predicted = self.head(self.vit.run_blocks(tokens))
        loss = token_loss(predicted, targets, self.recipe.object_weight)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_grad)
        for optimiser in self.optimisers:
            optimiser.step()
        error = (predicted.detach() - targets).square().mean(dim=(0, 1)).tolist()
        power = targets.square().mean(dim=(0, 1)).tolist()
        values = {"loss": loss.item()}
        for name, e, p in zip(CHANNELS, error, power, strict=True):
            values |= {f"error.{name}": e, f"power.{name}": p}
        return values

    def _kept(self, targets: Tensor) -> Tensor:
        """Indices of the tokens that each clip keeps: at random, but moving objects before the empty background.

        They follow from the step, so that a resumed run repeats them.
        """
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        score = torch.rand(targets.shape[:2], generator=generator).to(self.device)
        score = score + OBJECT_PREFERENCE * (targets[..., 0] > COVERED)
        return score.topk(max(1, round(self.recipe.keep * targets.shape[1])), dim=1).indices

    def save(self) -> None:
        """Write checkpoint and float16 backbone, each whole or not at all."""
        state = {
            "vit": self.vit.state_dict(),
            "head": self.head.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
        }
        with atomic(self.folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)
        notes = {
            "pretraining": "synthetic motion pre-training, not VideoMAE weights",
            "recipe": self.recipe.model_dump_json(),
            "clips_seen": str(self.step * self.recipe.batch),
            "minutes": f"{self.seconds / 60:.1f}",
        }
        save_backbone(self.folder / "backbone.safetensors", self.vit, half=True, notes=notes)

    def load(self) -> None:
        """Continue from the run's checkpoint; raises ConfigError when there is none or it has other sizes."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            raise ConfigError(f"there is no checkpoint at {path}", fix="start the run without --resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.vit.load_state_dict(state["vit"])
            self.head.load_state_dict(state["head"])
        except RuntimeError as error:
            raise ConfigError(f"{path} does not fit the recipe", found=str(error).splitlines()[-1]) from None
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        log = self.folder / "log.jsonl"
        if log.exists():  # what was logged after the checkpoint is about to be done again
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            with atomic(log) as temporary:
                temporary.write_text("".join(x for x in lines if json.loads(x)["step"] <= self.step), encoding="utf-8")


def schedule(progress: float, warmup: float) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to 1 %."""
    if progress < warmup:
        return max(0.01, progress / warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def normalised(frames: Tensor) -> Tensor:
    """uint8 `[B, T, H, W, 3]` to the model's input `[B, 3, T, H, W]`."""
    mean, std = (torch.tensor(v, device=frames.device) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((frames.float() - mean) / std).permute(0, 4, 1, 2, 3).contiguous()


def token_loss(predicted: Tensor, targets: Tensor, object_weight: float) -> Tensor:
    """Smooth L1 over all tokens and channels, tokens with coverage (channel 0) weighted `1 + object_weight`."""
    weight = 1 + object_weight * (targets[..., 0] > COVERED)
    each = F.smooth_l1_loss(predicted, targets, reduction="none", beta=BETA).mean(dim=-1)
    return (each * weight).sum() / weight.sum()


def pretrain(recipe: PretrainRecipe, folder: Path, resume: bool, probe: str | None) -> dict[str, float]:
    """Run to the end of the budget and return the last log line; raises ConfigError when the run exists already."""
    run = Pretraining(recipe, folder)
    if resume:
        run.load()
    elif (folder / "checkpoint.pt").exists():
        raise ConfigError(
            f"{folder} holds a run already", fix="continue it with --resume, or choose another --set name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lists = [read_labelled(Path(probe) / f"{split}.csv", SPEC) for split in ("train", "val")] if probe else []
    loader = DataLoader(
        SoupStream(recipe.seed, recipe.batch, recipe.repeats, run.step), batch_size=None, num_workers=recipe.workers,
        prefetch_factor=8 if recipe.workers else None,
    )  # fmt: skip
    bar = tqdm(total=100, desc=recipe.name, unit="%", bar_format="{desc} {percentage:3.0f}% {elapsed} {postfix}")
    sums: dict[str, float] = {}
    line: dict[str, float] = {}
    clock, saved, probed = time.monotonic(), run.seconds, run.seconds
    for frames, targets in loader:
        for key, value in run.train_step(frames, targets).items():
            sums[key] = sums.get(key, 0.0) + value
        run.step += 1
        run.seconds, clock = run.seconds + time.monotonic() - clock, time.monotonic()
        done = run.progress >= 1
        if run.step % LOG_EVERY == 0 or done:
            line = _summary(run, sums)
            _append(folder, line)
            bar.update(min(100, round(100 * run.progress)) - bar.n)
            bar.set_postfix_str(f"step {run.step} loss {line['loss']:.4f}")
            sums = {}
        if done or run.seconds - saved > 60 * recipe.checkpoint_minutes:
            saved = run.seconds
            run.save()
            if lists and (done or run.seconds - probed > 60 * recipe.probe_minutes):
                probed = run.seconds
                _append(folder, {"step": run.step, "minutes": run.seconds / 60, "probe": _probe(run, lists)})
            plot(folder)
            clock = time.monotonic()  # saving and probing are not charged to the budget
        if done:
            break
    bar.close()
    return line


def _probe(run: Pretraining, lists: list[Labelled]) -> float:
    run.vit.eval()
    top1 = linear_probe(run.vit, *lists)
    run.vit.train()
    return top1


def _summary(run: Pretraining, sums: dict[str, float]) -> dict[str, float]:
    """Loss and, per channel, the share of the target's power that is explained (0 = as good as predicting zero)."""
    count = run.step % LOG_EVERY or LOG_EVERY
    line = {
        "step": run.step,
        "clips": run.step * run.recipe.batch,
        "minutes": run.seconds / 60,
        "loss": sums["loss"] / count,
    }
    return line | {name: 1 - sums[f"error.{name}"] / sums[f"power.{name}"] for name in CHANNELS}


def _append(folder: Path, line: dict[str, float]) -> None:
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="train.pretrain", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("recipe", help="a TOML recipe, for example train/recipes/nano-motion.toml")
    parser.add_argument("--set", action="append", metavar="key=value", help="change a key of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue from runs/<name>/checkpoint.pt")
    parser.add_argument(
        "--probe", metavar="LISTS", help="folder with train.csv and val.csv: log a linear probe as well"
    )
    options = parser.parse_args()
    recipe = load_toml(options.recipe, PretrainRecipe, options.set)
    print(json.dumps(pretrain(recipe, Path("runs") / recipe.name, options.resume, options.probe)))


if __name__ == "__main__":
    run_tool(main, "train.pretrain")
