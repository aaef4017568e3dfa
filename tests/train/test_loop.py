"""The training loop: gradients, the two sources of batches, resuming, accumulation, precision, early stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from apt_edge.errors import AptEdgeError, ConfigError, VideoError
from apt_edge.methods.tuned import TunedModel
from tests.train.conftest import LABELS, Task
from train.devices import make_accelerator
from train.engine.cache import CachedClips
from train.engine.checkpoint import load_checkpoint
from train.engine.data import Clips, Sample, read_items
from train.engine.loop import fit
from train.engine.order import Order
from train.engine.runlog import EpochRecord
from train.engine.source import Source, make_sources
from train.engine.validation import validate
from train.recipe import Recipe
from train.tune import build_model

CPU = torch.device("cpu")


def sources(recipe: Recipe, model: TunedModel) -> tuple[Source, Source]:
    spec = recipe.clip.spec()
    train = Clips(read_items(recipe.data, "train").items, spec, recipe.augment, recipe.seed)
    val = Clips(read_items(recipe.data, "val", LABELS).items, spec)
    accelerator = make_accelerator(CPU, recipe.optim.precision, recipe.optim.accumulate)
    return make_sources(model, recipe, train, val, accelerator, workers=0)


def trained(
    recipe: Recipe, folder: Path, resume: bool = False, checkpoint_minutes: float = 5.0
) -> tuple[list[EpochRecord], dict[str, Tensor]]:
    """Train in a folder; the history without speeds, and the trained tensors."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder.mkdir(exist_ok=True)
    model = build_model(recipe, 3)
    accelerator = make_accelerator(CPU, recipe.optim.precision, recipe.optim.accumulate)
    history = fit(
        model,
        *sources(recipe, model),
        recipe,
        folder,
        accelerator,
        state=load_checkpoint(folder, recipe) if resume else None,
        checkpoint_minutes=checkpoint_minutes,
    )
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return [replace(record, clips_per_second=0.0, waiting=0.0, seconds=0.0) for record in history], tensors


@pytest.mark.parametrize("method", ["{name='apt', tokens=4}", "{name='vpt-deep', tokens=4, start=1}"])
@pytest.mark.parametrize("views", [0, 1])
def test_every_prompt_has_a_gradient_after_a_validation(task: Task, method: str, views: int) -> None:
    recipe = task.recipe(f"method={method}", f"augment.views={views}")
    model = build_model(recipe, 3)
    train, val = sources(recipe, model)
    model.train()
    validate(model, val, make_accelerator(CPU))
    assert model.training
    assert not model.vit.training
    sample = next(train.batches())
    logits = model(sample.views.flatten(0, 1), from_prefix=train.from_prefix)
    torch.nn.functional.cross_entropy(logits, sample.labels.flatten()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("vit."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert all(row.abs().sum() > 0 for row in parameter.grad), name


@pytest.mark.parametrize("views", [1, 3])
def test_cached_and_uncached_loss_curves_agree(task: Task, tmp_path: Path, views: int) -> None:
    small = ["optim.base_lr=0.03", "optim.head_base_lr=0.03"]  # Adam's first steps amplify rounding by the rate
    settings = [f"augment.views={views}", "augment.num_sample=1", *small]
    kept, _ = trained(task.recipe(*settings), tmp_path / "kept")
    computed, _ = trained(task.recipe(*settings, "cache.use=false"), tmp_path / "computed")
    assert len(kept) == 4
    for one, other in zip(kept, computed, strict=True):
        assert abs(one.loss - other.loss) <= 1e-6
        assert abs((one.val_loss or 0) - (other.val_loss or 1)) <= 1e-6


KINDS = {
    "fresh clips": ["augment.views=0", "method.dropout=0.3"],
    "kept views": ["augment.views=2", "method.dropout=0.3"],
    "full": ["method={name='full', drop_path=0.5}", "optim.base_lr=0.03", "augment.num_sample=1"],
    "batch norm": ["method={name='linear', head='bn_linear'}"],
    "best": ["optim.keep=best", "optim.early_stop=2", "method.dropout=0.3"],
}


@pytest.mark.parametrize(("step", "checkpoint_minutes"), [(2, 0.0), (5, 5.0), (7, 0.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_run_interrupted_at_any_step_is_resumed_to_the_bit(
    task: Task, tmp_path: Path, kind: str, step: int, checkpoint_minutes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = task.recipe("augment.num_sample=2", *KINDS[kind])
    whole, expected = trained(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("train.engine.loop.F.cross_entropy", interrupted_at(step))
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "cut", checkpoint_minutes=checkpoint_minutes)
    torch.manual_seed(12345)  # another process would not share the random state either
    history, tensors = trained(recipe, tmp_path / "cut", resume=True)
    assert history == whole
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [f'"epoch": {n},' in line for n, line in enumerate(lines, 1)] == [True] * len(whole)


def interrupted_at(step: int):  # type: ignore[no-untyped-def]
    """The loss, with a user who presses Ctrl-C at a step of training."""
    real = torch.nn.functional.cross_entropy
    calls = iter(range(100))

    def run(*arguments: Tensor, **settings: object) -> Tensor:
        if "label_smoothing" in settings and next(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments, **settings)  # type: ignore[arg-type]

    return run


def test_two_checkpoints_are_kept_and_a_torn_one_is_skipped(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = task.recipe()
    _, expected = trained(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("train.engine.loop.F.cross_entropy", interrupted_at(7))
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "cut", checkpoint_minutes=0.0)
    files = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [file.name for file in files] == ["step-000000006.pt", "step-000000007.pt"]
    files[1].write_bytes(files[1].read_bytes()[:2000])
    _, tensors = trained(recipe, tmp_path / "cut", resume=True)
    assert "step-000000007.pt is torn and skipped" in capsys.readouterr().err
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_another_recipe_is_not_resumed(task: Task, tmp_path: Path) -> None:
    trained(task.recipe("optim.epochs=1"), tmp_path)
    with pytest.raises(ConfigError, match=r"optim.base_lr was 3.2, is 0.2"):
        trained(task.recipe("optim.epochs=1", "optim.base_lr=0.2"), tmp_path, resume=True)


def test_loss_falls_and_the_classes_are_learnt(task: Task, tmp_path: Path) -> None:
    history, _ = trained(task.recipe("optim.epochs=8"), tmp_path)
    assert history[-1].loss < 0.75 * history[0].loss
    assert (history[-1].val_accuracy or 0) > 0.6  # chance is a third
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_accumulated_parts_make_the_same_step(task: Task, tmp_path: Path) -> None:
    settings = ["optim.base_lr=0.1", "optim.head_base_lr=0.1", "method.dropout=0.3"]
    whole, _ = trained(task.recipe(*settings), tmp_path / "whole")
    parts, _ = trained(task.recipe(*settings, "optim.accumulate=4"), tmp_path / "parts")
    assert max(abs(a.loss - b.loss) for a, b in zip(whole, parts, strict=True)) <= 1e-5
    assert [record.val_accuracy for record in whole] == [record.val_accuracy for record in parts]


def test_bf16_computes_in_another_precision_and_learns(task: Task, tmp_path: Path) -> None:
    full, _ = trained(task.recipe(), tmp_path / "full")
    half, tensors = trained(task.recipe("optim.precision=bf16"), tmp_path / "half")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert full[0].loss != half[0].loss
    assert abs(full[0].loss - half[0].loss) < 0.05
    assert half[-1].loss < half[0].loss
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set optim.precision to bf16"):
        make_accelerator(CPU, "fp16")


def test_clipped_gradients_move_less(task: Task, tmp_path: Path) -> None:
    settings = ["optim.epochs=1", "optim.warmup_epochs=0", "optim.eps=1.0"]  # so that Adam's step follows the gradient
    _, free = trained(task.recipe(*settings), tmp_path / "free")
    _, clipped = trained(task.recipe(*settings, "optim.clip_grad=1e-4"), tmp_path / "clipped")
    start = dict(build_model(task.recipe(), 3).named_parameters())
    moved = [sum((tensors[n] - start[n]).abs().sum().item() for n in tensors) for tensors in (free, clipped)]
    assert moved[1] < 0.1 * moved[0]


def test_early_stop_and_best_weights(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe("optim.epochs=12", "optim.base_lr=300", "optim.early_stop=2", "optim.keep=best")
    history, _ = trained(recipe, tmp_path)
    best = max(history, key=lambda record: record.val_accuracy or 0.0)
    assert len(history) == best.epoch + 2 < 12
    model = build_model(recipe, 3)
    accelerator = make_accelerator(CPU)
    state = load_checkpoint(tmp_path, recipe)
    fit(model, *sources(recipe, model), recipe, tmp_path, accelerator, state=state)  # nothing is left to train
    accuracy = validate(model, sources(recipe, model)[1], accelerator)[1]
    assert accuracy == pytest.approx(best.val_accuracy)


def test_diverged_loss_is_an_instruction_and_keeps_the_last_checkpoint(task: Task, tmp_path: Path) -> None:
    recipe = task.recipe()
    model = build_model(recipe, 3)
    train, val = sources(recipe, model)
    real = model.head.forward

    def broken(x: Tensor) -> Tensor:
        return real(x) * (math.nan if model.training and train.order.epoch else 1.0)

    model.head.forward = broken  # type: ignore[method-assign]
    with pytest.raises(AptEdgeError, match=r"the loss is nan at step 3 \(epoch 2\)\n.*rates .*step-000000003.pt"):
        fit(model, train, val, recipe, tmp_path, make_accelerator(CPU))
    assert (tmp_path / "checkpoints" / "step-000000003.pt").is_file()


def test_broken_weights_are_not_saved_as_good_ones(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = task.recipe("optim.epochs=3", "optim.warmup_epochs=0")
    real = torch.nn.functional.cross_entropy
    calls = iter(range(100))

    def infinite_slope(logits: Tensor, labels: Tensor, **settings: Any) -> Tensor:
        """The loss; from step 5 on its value stays right and its gradient is infinite."""
        loss = real(logits, labels, **settings)
        if "label_smoothing" not in settings or next(calls) < 5:
            return loss
        return loss + (math.inf * (logits.sum() - logits.sum().detach())).nan_to_num(0.0)

    monkeypatch.setattr("train.engine.loop.F.cross_entropy", infinite_slope)
    with pytest.raises(AptEdgeError, match=r"a weight is not a number any more at step 6 .*\n.*step-000000003.pt"):
        trained(recipe, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000003.pt"]


def test_too_few_clips_for_a_batch(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="24 training clips do not fill one batch of 32"):
        trained(task.recipe("optim.batch=32"), tmp_path)


def spoiled(task: Task, tmp_path: Path, part: str, files: dict[str, str]) -> str:
    """A list of the task in which some videos' files are others, as a setting; missing files are unreadable ones."""
    lines = (task.folder / f"{part}.csv").read_text(encoding="utf-8").splitlines()
    lines = [f"{task.folder}/{files.get(line.split()[0], line.split()[0])} {line.split()[1]}" for line in lines]
    (tmp_path / f"{part}.csv").write_text("\n".join(lines), encoding="utf-8")
    return f"data.{part}={(tmp_path / f'{part}.csv').as_posix()}"


BAD = ["train-1-2.mp4", "train-0-5.mp4", "train-2-5.mp4"]


def with_nines(real: Callable[[Any, Any], Sample]) -> Callable[[Any, Any], Sample]:
    """Samples with nines instead of zeros where nothing could be read."""

    def sample(clips: Any, key: Any) -> Sample:
        found = real(clips, key)
        return found if found.readable else found._replace(views=torch.full_like(found.views, 9.0))

    return sample


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [["augment.views=0"], ["augment.views=2"], ["method={name='linear', head='bn_linear'}"]], ids=str
)
def test_what_stands_in_the_place_of_an_unreadable_clip_changes_nothing(
    task: Task, tmp_path: Path, kind: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = spoiled(task, tmp_path, "train", {name: f"gone-{name}" for name in BAD})
    recipe = task.recipe(setting, "augment.num_sample=2", *kind)
    _, expected = trained(recipe, tmp_path / "zeros")
    with monkeypatch.context() as patch:
        for clips in (Clips, CachedClips):
            patch.setattr(clips, "__getitem__", with_nines(clips.__getitem__))
        history, tensors = trained(recipe, tmp_path / "nines")
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    whole, other = trained(task.recipe("augment.num_sample=2", *kind), tmp_path / "whole")
    assert any(not torch.equal(other[name], expected[name]) for name in expected)  # and no other clip took its place
    assert history[0].loss != whole[0].loss


@pytest.mark.parametrize("accumulate", [1, 3])
def test_readable_clips_weigh_what_they_weigh_in_a_whole_batch(task: Task, tmp_path: Path, accumulate: int) -> None:
    settings = ["optim.epochs=1", "optim.warmup_epochs=0", "optim.batch=24", f"optim.accumulate={accumulate}"]
    names = sorted(path.name for path in task.folder.glob("train-*.mp4"))
    gradients = []
    for number, bad in enumerate([[], names[:7], names[7:]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        setting = spoiled(task, folder, "train", {name: f"gone-{name}" for name in bad})
        recipe = task.recipe(setting, *settings)
        trained(recipe, folder)
        state = load_checkpoint(folder, recipe)
        assert state
        gradients.append([weight["exp_avg"] for weight in state["optimiser"]["state"].values()])  # a tenth of it
    for whole, one, other in zip(*gradients, strict=True):
        assert torch.allclose(one + other, whole, rtol=1e-3, atol=1e-3 * one.abs().max().item())
        assert one.abs().max() > 0


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("method", ["{name='apt', tokens=4}", "{name='linear', head='bn_linear'}"])
def test_parts_without_a_readable_clip_are_steps_all_the_same(
    task: Task, tmp_path: Path, method: str, accumulate: int
) -> None:
    lines = (task.folder / "train.csv").read_text(encoding="utf-8").splitlines()
    first = [clip for clip, _ in next(iter(Order(len(lines), 4, 3)))]
    bad = [line.split()[0] for clip, line in enumerate(lines) if clip not in first[2:]]
    setting = spoiled(task, tmp_path, "train", {name: f"gone-{name}" for name in bad})
    settings = ["augment.views=0", "augment.num_sample=2", "optim.batch=4", f"optim.accumulate={accumulate}", "seed=3"]
    settings.append(f"method={method}")
    history, tensors = trained(task.recipe(setting, *settings), tmp_path / "run")
    assert len(history) == 4
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_an_unreadable_validation_clip_is_wrong_unless_it_is_skipped(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"val-0-1.mp4": "gone.mp4", "val-1-1.mp4": "labels.txt", "val-2-1.mp4": "gone.mp4"}
    spoilt, whole = task.recipe(spoiled(task, tmp_path, "val", files)), task.recipe()
    model, accelerator = build_model(whole, 3), make_accelerator(CPU)
    for views in (0, 1):
        readable = [n for n, item in enumerate(read_items(whole.data, "val").items) if item.path.name not in files]
        settings = spoilt.model_copy(update={"augment": spoilt.augment.model_copy(update={"views": views})})
        source = sources(settings, model)[1]
        assert source.from_prefix == bool(views)
        (sample,) = list(sources(whole, model)[1].batches())
        logits, labels = model.eval()(sample.views[readable, 0], from_prefix=True), sample.labels[readable, 0]
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        right = int((logits.argmax(1) == labels).sum())
        assert right > 0
        for skip_bad, clips in ((False, 12), (True, 9)):
            found = validate(model, source, accelerator, skip_bad)
            assert found == pytest.approx((loss, right / clips), abs=1e-6)
        rows = source.unreadable.rows()
        assert [Path(row["path"]).name for row in rows] == ["gone.mp4", "labels.txt", "gone.mp4"]
        assert "is a text file" in rows[1]["reason"]
    assert capsys.readouterr().err.count("is a text file") == 2  # of two sources


@pytest.mark.parametrize("views", [0, 1])
def test_nothing_readable_stops_with_the_first_file_and_a_hint(task: Task, tmp_path: Path, views: int) -> None:
    files = {path.name: f"gone-{path.name}" for path in task.folder.glob("*.mp4")}
    for part, what in (("train", "the training list" if views else "epoch 1"), ("val", "the validation list")):
        recipe = task.recipe(spoiled(task, tmp_path, part, files), f"augment.views={views}")
        with pytest.raises(VideoError, match=rf"no clip of {what} can be read\n.*gone-{part}.*\n.*data\.root"):
            trained(recipe, tmp_path / "run")


def test_small_batches_do_not_stop_for_the_clips_of_one(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (task.folder / "train.csv").read_text(encoding="utf-8").splitlines()
    order = [clip for keys in Order(len(lines), 2, 3) for clip, _ in keys]
    bad = [lines[clip].split()[0] for clip in order[:10]]
    setting = spoiled(task, tmp_path, "train", {name: f"gone-{name}" for name in bad})
    recipe = task.recipe(
        setting, "augment.views=0", "optim.batch=2", "optim.epochs=1", "optim.warmup_epochs=0", "seed=3"
    )
    (record,), _ = trained(recipe, tmp_path / "run")
    assert record.val_accuracy is not None
    monkeypatch.setattr("train.engine.loop.FIRST_TRIED", 10)
    with pytest.raises(VideoError, match="no clip of the first 10 can be read"):
        trained(recipe, tmp_path / "stopped")


def test_run_with_unreadable_clips_is_resumed_to_the_bit_and_remembers_them(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = spoiled(task, tmp_path, "train", {name: f"gone-{name}" for name in BAD})
    recipe = task.recipe(setting, "augment.views=0", "optim.epochs=1", "optim.warmup_epochs=0", "optim.batch=4")
    whole, expected = trained(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("train.engine.loop.F.cross_entropy", interrupted_at(5))
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "cut", checkpoint_minutes=0.0)
    state = load_checkpoint(tmp_path / "cut", recipe)
    assert state
    assert state["unreadable"][0]
    history, tensors = trained(recipe, tmp_path / "cut", resume=True)
    assert history == whole
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_waiting_is_the_share_of_the_time_without_a_batch(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = task.recipe("augment.views=0", "optim.epochs=1", "optim.warmup_epochs=0")
    model = build_model(recipe, 3)
    train, val = sources(recipe, model)
    clock = iter(range(10_000))
    monkeypatch.setattr("train.engine.loop.time.perf_counter", lambda: float(next(clock)))  # a second between two looks
    (record,) = fit(model, train, val, recipe, tmp_path, make_accelerator(CPU))
    # Asked and answered three times, then the end; a look before the first and one after the last of them.
    assert record.waiting == pytest.approx(4 / 9)
    assert record.clips_per_second == pytest.approx(24 / 9)
