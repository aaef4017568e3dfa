"""Whole runs from the command line: killed and resumed, on two processes, on a disk without room."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apt_edge.pack import PromptPack
from tests.train.conftest import Task

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SETTINGS = ["optim.epochs=30", "optim.warmup_epochs=3", "augment.num_sample=2", "method.dropout=0.3"]


def command(task: Task, out: Path, *more: str, settings: list[str] = SETTINGS) -> list[str]:
    changes = [part for setting in settings for part in ("--set", setting)]
    return ["-m", "train.tune", str(task.path), "--out", str(out), "--checkpoint-minutes", "0", *changes, *more]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def tensors(out: Path) -> dict[str, np.ndarray]:
    pack = PromptPack.load(out / "pack.safetensors")
    return dict(pack.head) | {f"{b}.{n}": a for b, kv in pack.kv.items() for n, a in zip("kv", kv, strict=True)}


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("resume") / "whole"
    done = run(*command(task, out))
    assert done.returncode == 0, done.stderr
    return out


def test_killed_run_ends_with_the_same_bits(task: Task, whole: Path, tmp_path: Path) -> None:
    out, step = tmp_path / "killed", random.randint(3, 60)  # of 90; any step will do
    folder = tmp_path / "killed.partial" / "checkpoints"
    process = subprocess.Popen([sys.executable, *command(task, out)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(int(path.stem[5:]) >= step for path in folder.glob("step-*.pt")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = run(*command(task, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(whole)
    expected = tensors(whole)
    assert all(np.array_equal(array, expected[name]) for name, array in tensors(out).items()), f"killed at {step}"


@pytest.mark.slow
def test_two_processes_with_a_cache_give_the_losses_of_one_without(task: Task, tmp_path: Path) -> None:
    settings = [*SETTINGS[2:], "optim.epochs=6", "optim.base_lr=0.3"]
    one, two = tmp_path / "one", tmp_path / "two"
    done = run(*command(task, one, settings=[*settings, "cache.use=false"]))
    assert done.returncode == 0, done.stderr
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run(*torchrun, *command(task, two, settings=[*settings, f"cache.folder={(tmp_path / 'cache').as_posix()}"]))
    assert done.returncode == 0, done.stderr
    assert json.loads((two / "environment.json").read_text(encoding="utf-8"))["processes"] == 2
    assert len(losses(two)) == 6
    assert np.abs(np.subtract(losses(one), losses(two))).max() <= 1e-5
    records = [json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]) for out in (one, two)]
    assert records[0]["val_accuracy"] == records[1]["val_accuracy"]
    expected = tensors(one)
    assert max(np.abs(array - expected[name]).max() for name, array in tensors(two).items()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 2])
def test_two_processes_leave_out_the_unreadable_clips_that_one_does(task: Task, tmp_path: Path, views: int) -> None:
    lines = (task.folder / "train.csv").read_text(encoding="utf-8").splitlines()
    for bad in (0, 7, 8, 9, 20):  # of a batch of 4 one process may have nothing to read
        lines[bad] = f"gone-{lines[bad]}"
    (tmp_path / "train.csv").write_text("\n".join(f"{task.folder}/{line}" for line in lines), encoding="utf-8")
    settings = [f"data.train={tmp_path.as_posix()}/train.csv", f"augment.views={views}", "optim.epochs=3"]
    settings += ["optim.batch=4", "optim.base_lr=0.3", f"cache.folder={(tmp_path / 'cache').as_posix()}"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    outs = [tmp_path / "one", tmp_path / "two"]
    for out, before in zip(outs, ([], torchrun), strict=True):
        done = run(*before, *command(task, out, "--workers", "0", settings=settings))
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("unreadable, left out") == 5
    assert np.abs(np.subtract(*map(losses, outs))).max() <= 1e-5
    listed = [json.loads((out / "unreadable.json").read_text(encoding="utf-8")) for out in outs]
    assert listed[0] == listed[1]
    assert len(listed[0]["train"]) == 5
    expected = tensors(outs[0])
    assert max(np.abs(array - expected[name]).max() for name, array in tensors(outs[1]).items()) <= 1e-4


LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails like one on a full disk
from train.engine import {module}
before = {module}.{function}
def limited(*arguments, **settings):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    try:
        return before(*arguments, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
calls = iter(range(1000))
{module}.{function} = lambda *a, **s: limited(*a, **s) if next(calls) >= {after} else before(*a, **s)
sys.argv = ["train.tune", *{arguments!r}]
runpy.run_module("train.tune", run_name="__main__")
"""


@pytest.mark.slow
def test_full_disk_while_saving_keeps_the_older_checkpoints(task: Task, whole: Path, tmp_path: Path) -> None:
    arguments = command(task, tmp_path / "run")[2:]
    code = LIMITED.format(module="loop", function="save_checkpoint", limit=1000, after=7, arguments=arguments)
    done = run("-c", code)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "go on with --resume from step-000000007.pt" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "run.partial" / "checkpoints").iterdir()) == [
        "step-000000006.pt",
        "step-000000007.pt",
    ]
    done = run(*command(task, tmp_path / "run", "--resume"))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == losses(whole)


def test_full_disk_while_caching_says_what_to_do(task: Task, whole: Path, tmp_path: Path) -> None:
    entries = {path: path.stat().st_size for path in (task.folder / "cache").glob("*/prefix.bin")}
    assert entries
    arguments = command(task, tmp_path / "run", settings=[*SETTINGS, "augment.views=5"])[2:]
    code = LIMITED.format(module="cache", function="_reserve", limit=1000, after=0, arguments=arguments)
    done = run("-c", code)
    assert done.returncode == 1
    assert "there is no room for" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_size for path in (task.folder / "cache").glob("*/prefix.bin")} == entries
    assert not list(tmp_path.iterdir())
