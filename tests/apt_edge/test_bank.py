"""PromptBank in ONNX Runtime: equal to the last bit with folded models, whatever was loaded, refused or run between."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import AptEdgeError, ConfigError, ModelError, PackError
from apt_edge.pack import FoldedKV, PromptPack
from apt_edge.runtime.bank import PromptBank
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.session import Held
from apt_edge.runtime.sessions import open_session
from apt_edge.runtime.tasks import own_task
from tests.apt_edge.task_models import frames, packs


def bank(root: Path, name: str, *tasks: str) -> PromptBank:
    model = ModelDir.load(root / name)
    opened = PromptBank(model, open_session(model, 1))
    for task in tasks:
        opened.load(task, root / f"{task}.safetensors")
    return opened


def logits(found: PromptBank, task: str, clip: int = 0) -> np.ndarray:
    found.switch(task)
    return found.run(frames()[clip])


def scaled(factor: float) -> PromptPack:
    kv = {block: FoldedKV(factor * kv.key, factor * kv.value) for block, kv in packs()["one"].kv.items()}
    return dataclasses.replace(packs()["one"], kv=kv)


@pytest.mark.parametrize(("task", "model"), [("one", "bound"), ("one", "free"), ("other", "free"), ("late", "free")])
def test_a_task_is_equal_to_its_folded_model(task_models, task, model):
    alone, shared = bank(task_models, f"folded-{task}"), bank(task_models, model, task)
    shared.switch(task)
    assert alone.task == f"folded-{task}"
    assert alone.labels == shared.labels == packs()[task].labels
    for clip in frames():
        assert np.array_equal(shared.run(clip), alone.run(clip))


def test_other_tasks_between_change_nothing(task_models):
    shared = bank(task_models, "free", "one", "other", "none")
    first = logits(shared, "one")
    assert logits(shared, "other").shape == (3,)
    assert not np.array_equal(logits(shared, "none"), first)
    assert np.array_equal(logits(shared, "one"), first)


def test_nothing_is_current_before_the_first_switch(task_models):
    shared = bank(task_models, "bound", "one")
    assert (shared.task, shared.tasks) == (None, ("one",))
    for use in (lambda: shared.run(frames()[0]), lambda: shared.labels):
        with pytest.raises(ConfigError, match=r"(?s)no task is chosen.*tasks one.*switch"):
            use()


def test_what_fails_leaves_the_other_tasks(task_models, tmp_path):
    shared = bank(task_models, "free", "one", "other")
    before = logits(shared, "one")
    (tmp_path / "cut").write_bytes((task_models / "one.safetensors").read_bytes()[:999])
    attempts = [
        ("wide", task_models / "wide.safetensors", PackError),
        ("cut", tmp_path / "cut", PackError),
        ("gone", tmp_path / "gone", PackError),
        ("one", packs()["other"], ConfigError),
    ]
    for name, pack, error in attempts:
        with pytest.raises(error):
            shared.load(name, pack)
    for change in (shared.switch, shared.unload, shared.labels_of):
        with pytest.raises(ConfigError, match=r"(?s)there is no task gone.*tasks one, other.*load its pack"):
            change("gone")
    with pytest.raises(ModelError, match="input clip must be"):
        shared.run(frames()[0, :2])
    with pytest.raises(ModelError, match=r"(?s)input clip must be uint8.*found: int64"):
        shared.run(frames()[0].tolist())
    assert (shared.task, shared.tasks) == ("one", ("one", "other"))
    assert np.array_equal(shared.run(frames()[0]), before)


def test_unloaded_tasks_are_gone_and_their_name_is_free(task_models):
    shared = bank(task_models, "free", "one", "other")
    before = logits(shared, "one")
    shared.unload("other")
    assert np.array_equal(shared.run(frames()[0]), before)
    shared.unload("one")
    assert (shared.task, shared.tasks) == (None, ())
    shared.load("other", task_models / "one.safetensors")
    assert np.array_equal(logits(shared, "other"), before)


def test_a_task_has_all_values_and_a_label_a_class(task_models):
    own = own_task(ModelDir.load(task_models / "free"))
    key = "blocks.0.attn.prompt_key"
    cases = [
        ({"values": {name: array for name, array in own.values.items() if name != key}}, r"must have values of"),
        ({"values": {**own.values, "more": own.values[key]}}, r"must have values of .*found: .*more"),
        ({"labels": own.labels[1:]}, r"has 4 labels for 5 classes"),
    ]
    shared = bank(task_models, "free", "one")
    for changes, message in cases:
        with pytest.raises(ModelError, match=f"(?s){message}"):
            shared.add(dataclasses.replace(own, **changes))
    assert shared.tasks == ("one",)


def test_a_folded_model_keeps_its_task(task_models):
    alone = bank(task_models, "folded-one")
    before = alone.run(frames()[0])
    with pytest.raises(ConfigError, match=r"(?s)takes no other task.*prompts\.mode=bound"):
        alone.add(dataclasses.replace(own_task(alone.model), name="second"))
    with pytest.raises(ConfigError, match=r"(?s)cannot be unloaded.*prompts\.mode=bound"):
        alone.unload("folded-one")
    assert alone.tasks == ("folded-one",)
    assert np.array_equal(alone.run(frames()[0]), before)


def test_a_thousand_tasks(task_models):
    shared = bank(task_models, "bound")
    for number in range(1000):
        shared.load(f"task {number}", scaled(number / 100))
    assert len(shared.tasks) == 1000
    for number in (999, 500, 0):
        alone = bank(task_models, "bound")
        alone.load("alone", scaled(number / 100))
        assert np.array_equal(logits(shared, f"task {number}"), logits(alone, "alone"))


def test_a_bank_and_its_session_hold_one_copy(task_models):
    class Watched:
        """The real session, and what it was given to hold."""

        def __init__(self, session):
            self.session, self.inputs, self.outputs = session, session.inputs, session.outputs
            self.given: list[Held] = []

        def hold(self, values):
            self.given.append(self.session.hold(values))
            return self.given[-1]

        def run(self, feeds, held=None):
            return self.session.run(feeds, held)

    model = ModelDir.load(task_models / "bound")
    watched = Watched(open_session(model, 1))
    shared, pack = PromptBank(model, watched), packs()["one"]
    shared.load("one", pack)
    assert np.array_equal(logits(shared, "one"), logits(bank(task_models, "folded-one"), "folded-one"))
    (held,) = watched.given
    for block, kv in pack.kv.items():
        assert np.shares_memory(held.values[f"blocks.{block}.attn.prompt_key"], kv.key)
        assert np.shares_memory(held.values[f"blocks.{block}.attn.prompt_value"], kv.value)


def test_threads_switch_load_and_run_at_once(task_models):
    shared = bank(task_models, "free", "one", "other", "late")
    known = {tuple(logits(shared, task)) for task in shared.tasks}

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for step in range(12):
            shared.switch(str(random.choice(["one", "other", "late"])))
            assert tuple(shared.run(frames()[0])) in known
            shared.load(f"{seed} {step}", packs()["none"])
            shared.unload(f"{seed} {step}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert shared.tasks == ("one", "other", "late")


def test_rows_of_one_batch_have_their_own_tasks(task_models):
    shared = bank(task_models, "rows")
    for name, pack in {"one": packs()["one"], "double": scaled(2)}.items():
        shared.load(name, pack)
    fewer = dataclasses.replace(
        scaled(3),
        labels=("x", "y"),
        head={k: v[:2] if k in ("weight", "bias") else v for k, v in scaled(3).head.items()},
    )
    shared.load("two classes", fewer)
    names = ["one", "double", "one", "two classes"]
    rows = shared.run_rows(frames(), names)
    assert [len(row) for row in rows] == [5, 5, 5, 2]
    for clip, (name, row) in enumerate(zip(names, rows, strict=True)):
        assert np.allclose(row, logits(shared, name, clip), rtol=0, atol=1e-5)
        others = [logits(shared, other, clip)[:2] for other in ("one", "double", "two classes") if other != name]
        assert min(np.abs(row[:2] - other).max() for other in others) > 0.01
    assert all(np.array_equal(a, b) for a, b in zip(rows, shared.run_rows(frames(), names), strict=True))


def test_rows_that_cannot_be_one_batch_are_refused(task_models):
    shared = bank(task_models, "rows", "one", "other")
    cases = [
        (lambda: shared.run_rows(frames()[:2], ["one", "other"]), r"different numbers of prompts.*one 6, other 3"),
        (lambda: shared.run_rows(frames()[:2], ["one"]), r"1 tasks for 2 clips"),
        (lambda: shared.run_rows(frames()[:0], []), r"0 tasks for 0 clips"),
        (lambda: shared.run_rows(frames()[:1], ["gone"]), r"there is no task gone"),
        (lambda: bank(task_models, "free", "one").run_rows(frames()[:1], ["one"]), r"one task a run.*per_row=true"),
    ]
    for use, message in cases:
        with pytest.raises(AptEdgeError, match=f"(?s){message}"):
            use()
    assert np.isfinite(logits(shared, "one")).all()
