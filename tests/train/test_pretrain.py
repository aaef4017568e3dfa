"""Pre-training on tiny settings: the loss falls, a killed run continues, and what it writes can be loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.errors import ConfigError
from train.muon import orthogonalised
from train.pretrain import Pretraining, PretrainRecipe, pretrain, schedule
from train.synthetic.stream import SoupStream

ROOT = Path(__file__).parents[2]
TINY = {
    "name": "tiny", "steps": 4, "batch": 4, "repeats": 2, "lr": 1e-3, "warmup": 0.1, "weight_decay": 0.05,
    "betas": [0.9, 0.95], "clip_grad": 1.0, "keep": 0.3, "keep_until": 0.5, "object_weight": 3.0, "workers": 0,
    "checkpoint_minutes": 60.0, "probe_minutes": 60.0,
}  # fmt: skip


def recipe(**changes: object) -> PretrainRecipe:
    return PretrainRecipe.model_validate(TINY | changes)


def test_loss_falls_on_a_batch_it_has_seen(tmp_path: Path) -> None:
    run = Pretraining(recipe(keep=1.0, steps=100, warmup=0.0), tmp_path)
    batch = next(iter(SoupStream(seed=0, batch=4, repeats=1, start=0)))
    losses = [run.train_step(*batch)["loss"] for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_continues_where_it_stopped(tmp_path: Path) -> None:
    whole, halves = recipe(steps=4), recipe(steps=4)
    straight = pretrain(whole, tmp_path / "a", resume=False, probe=None)
    stopped = Pretraining(halves, tmp_path / "b")
    stream = iter(SoupStream(0, 4, 2, 0))
    for _ in range(2):
        stopped.train_step(*next(stream))
        stopped.step += 1
    (tmp_path / "b").mkdir()
    stopped.save()
    pretrain(halves, tmp_path / "b", resume=True, probe=None)
    first = load_backbone(tmp_path / "a" / "backbone.safetensors").state_dict()
    second = load_backbone(tmp_path / "b" / "backbone.safetensors").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert straight["step"] == 4
    lines = (tmp_path / "a" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["clips"] == 16
    assert (tmp_path / "a" / "curve.png").stat().st_size > 1000


def test_an_existing_run_is_not_overwritten_and_a_missing_one_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without --resume"):
        pretrain(recipe(), tmp_path / "none", resume=True, probe=None)
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(ConfigError, match="--resume"):
        pretrain(recipe(), tmp_path, resume=False, probe=None)


def test_the_shipped_recipe_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.pretrain", str(ROOT / "train/recipes/nano-motion.toml")]
    for change in ("budget_minutes=1e-4", "batch=2", "workers=1"):
        command += ["--set", change]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 1
    assert load_backbone(tmp_path / "runs/nano-motion/backbone.safetensors").config.tokens == 144


def test_schedule_warms_up_and_ends_low() -> None:
    assert schedule(0.0, 0.1) < schedule(0.05, 0.1) < schedule(0.1, 0.1) == pytest.approx(1.0)
    assert schedule(1.0, 0.1) == pytest.approx(0.01)


def test_steps_and_budget_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        recipe(budget_minutes=1.0)


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3
