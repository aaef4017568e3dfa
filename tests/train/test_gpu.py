"""Training on a GPU: half precision with its loss scale, and resuming it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.train.conftest import Task
from train.tune import tune

CUDA = torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: half precision with a loss scale")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_learns_and_resumes(
    task: Task, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = task.recipe(f"optim.precision={precision}", "optim.clip_grad=1.0", "optim.epochs=8")
    whole = tune(recipe, tmp_path / "whole", device=CUDA)
    assert whole["accuracy"] > 0.6  # chance is a third

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("train.tune.save_curves", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, tmp_path / "cut", device=CUDA)
    for path in sorted((tmp_path / "cut.partial" / "checkpoints").iterdir())[1:]:
        path.unlink()  # so that the last epoch is trained once more
    assert tune(recipe, tmp_path / "cut", resume=True, device=CUDA)["accuracy"] == whole["accuracy"]
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "cut")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    AcceleratorState._reset_state(reset_partial_state=True)
