"""TaskRunner: all tasks of whole and split models, equal to the last bit, and what they share computed once."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import ModelError, PackError
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.parts import open_parts
from apt_edge.runtime.runner import TaskRunner
from apt_edge.runtime.tasks import own_task, task_of
from tests.apt_edge.task_models import frames, packs


def runner(root: Path, name: str, *tasks: str) -> TaskRunner:
    return TaskRunner.open(root / name, {task: root / f"{task}.safetensors" for task in tasks}, 1)


def whole(root: Path, name: str, *tasks: str) -> TaskRunner:
    """The same directory's whole graph."""
    model = ModelDir.load(root / name)
    model = dataclasses.replace(model, facts={**model.facts, "parts": []})
    own = [task_of(packs()[task], model, task) for task in tasks] or [own_task(model)]
    return TaskRunner(model, open_parts(model, 1), own)


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))


@pytest.mark.parametrize("name", ["folded-late", "bound"])
def test_without_tasks_the_models_own_runs(task_models, name):
    alone = runner(task_models, name)
    assert (list(alone.tasks), alone.tubelet, alone.shared) == ([name], None, 0)
    assert alone.tasks[name] == alone.model.labels
    logits = alone.logits(frames()[0])[name]
    assert (logits.shape, logits.dtype) == ((5,), np.float32)
    with pytest.raises(ModelError, match=r"(?s)embeds whole clips alone.*--split-at 0"):
        alone.embed(frames()[0, :2])


@pytest.mark.parametrize(("tasks", "shared"), [((), 1), (("late", "none"), 2), (("one", "late", "other"), 1)])
def test_parts_give_what_the_whole_gives(task_models, tasks, shared):
    alone, parts = whole(task_models, "parts", *tasks), runner(task_models, "parts", *tasks)
    assert (alone.tubelet, parts.tubelet, parts.shared) == (None, 2, shared)
    assert alone.tasks == parts.tasks
    for clip in frames():
        assert same(parts.logits(clip), alone.logits(clip))


@pytest.mark.parametrize("name", ["folded-parts", "float32-parts"])
def test_parts_of_a_folded_model(task_models, name):
    parts = runner(task_models, name)
    assert (parts.tubelet, parts.shared, list(parts.tasks)) == (2, 2, [name])
    assert same(parts.logits(frames()[1]), whole(task_models, name).logits(frames()[1]))


def test_tubelets_embedded_earlier_give_the_same_logits(task_models):
    parts = runner(task_models, "parts", "one", "late")
    first, second = frames()[0], frames()[1]
    window = np.concatenate([first[2:], second[:2]])
    kept = {index: parts.embed(clip) for index, clip in enumerate((first[:2], first[2:], second[:2]))}
    assert kept[0].shape == (1, 4, 64)
    assert same(parts.logits_of([kept[1], kept[2]]), parts.logits(window))
    assert same(parts.logits_of([kept[0], kept[1]]), parts.logits(first))


def test_the_trunk_runs_once(task_models):
    class Counted:
        """The real session of a part, and how often it ran."""

        def __init__(self, session, name):
            self.session, self.name, self.inputs, self.outputs = session, name, session.inputs, session.outputs
            self.hold = session.hold

        def run(self, feeds, held=None):
            runs[self.name] += 1
            return self.session.run(feeds, held)

    runs: Counter[int] = Counter()
    model = ModelDir.load(task_models / "parts")
    parts = [part._replace(session=Counted(part.session, n)) for n, part in enumerate(open_parts(model, 1))]
    tasks = [task_of(packs()["late"], model, f"task {number}") for number in range(5)]
    TaskRunner(model, parts, tasks).logits(frames()[0])
    assert runs == {0: 2, 1: 1, 2: 5}  # two tubelets


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_part_that_is_not_the_exported_one_is_refused(task_models, tmp_path, damage):
    shutil.copytree(task_models / "parts", tmp_path / "m")
    path = tmp_path / "m" / "part1.onnx"
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(ModelError, match=r"(?s)part1\.onnx is not the part.*copy the whole directory"):
        TaskRunner.open(tmp_path / "m")


def test_a_task_that_does_not_fit_is_named(task_models, tmp_path):
    with pytest.raises(PackError, match=r"(?s)task wide does not fit"):
        runner(task_models, "parts", "one", "wide")
    PromptPack.load(task_models / "one.safetensors").save(tmp_path / "pack.safetensors")
    with pytest.raises(PackError, match="no other task than its own"):
        TaskRunner.open(task_models / "folded-one", {"one": tmp_path / "pack.safetensors"})


def test_clips_that_do_not_fit_are_refused(task_models):
    parts = runner(task_models, "parts", "one")
    for clip in (frames()[0, :3], frames()[0, :2], frames()[0, :, :16]):
        with pytest.raises(ModelError, match=r"must be"):
            parts.logits(clip)
    assert np.isfinite(parts.logits(frames()[0])["one"]).all()
