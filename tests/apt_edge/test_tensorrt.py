"""TensorRT sessions on stand-ins: every version's own names, order of calls, a graph a task, pointers, lifetimes.

What a GPU says to it is in `test_tensorrt_gpu.py`.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import AptEdgeError, ModelError
from apt_edge.runtime import tensorrt
from apt_edge.runtime.cuda.owned import release_left
from apt_edge.runtime.session import Held, HoldingSession
from apt_edge.runtime.tensorrt import TensorRtSession
from apt_edge.runtime.tensorrt_contexts import CONTEXTS
from tests.apt_edge.fake_engine import PLAN, FakeTensorRT, Name, expected
from tests.apt_edge.host_cuda import HostCuda
from tests.export.engine.api import dumps, public

VERSIONS = [*dumps(), "rtx"]


class Opened:
    """A session with what it stands on."""

    def __init__(self, folder: Path, version: str = "10.3.0", cuda: HostCuda | None = None, **plan: list[int]) -> None:
        if version == "rtx":
            api = public(pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed"))
        else:
            api = dumps()[version]
        self.cuda = cuda or HostCuda()
        self.trt = FakeTensorRT(self.cuda, version, api)
        self.path = folder / "model.engine"
        self.path.write_text(json.dumps(PLAN | plan))

    def session(self) -> TensorRtSession:
        return TensorRtSession(self.path, self.cuda, self.trt)

    def calls(self) -> list[str]:
        """The calls since the last look."""
        found = self.cuda.log.copy()
        self.cuda.log.clear()
        return found


def clip(seed: int, batch: int = 1) -> dict[str, np.ndarray]:
    return {"clip": np.random.default_rng(seed).integers(0, 256, (batch, 2), np.uint8)}


def task(seed: int, prompts: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    key = rng.normal(size=(1, prompts, 3)).astype(np.float32)
    return {"key": key, "weight": rng.normal(size=(1, 5)).astype(np.float16)}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_runs_and_switches_and_comes_back(tmp_path, version):
    session: HoldingSession = Opened(tmp_path, version).session()
    assert session.inputs == {"clip": ((1, 2), np.uint8), "key": ((1, 4, 3), np.float32), "weight": ((1, 5), "f2")}
    assert session.outputs == {"logits": ((1, 5), np.float32), "top": ((1,), np.int32)}
    held = {seed: session.hold(task(seed)) for seed in (1, 2)}
    for seed in (1, 2, 1, 2, 1):
        found = session.run(clip(7), held[seed])
        assert same(found, expected(**clip(7), **task(seed)))
        assert same(found, session.run({**clip(7), **task(seed)}))


def test_the_order_of_calls(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    shapes, outputs = [f"shape {name}" for name in ("clip", "key", "weight")], ["malloc", "pinned"] * 2
    memory = ["malloc", "create context"]
    assert opened.calls() == ["stream", "event", "event", "deserialize", *memory, *shapes, *outputs]
    held = session.hold(task(1))
    assert opened.calls() == ["synchronize", "malloc", "upload", "upload", "synchronize"]
    addresses = [f"address {name}" for name in ("clip", "key", "weight", "logits", "top")]
    back = ["download", "download", "synchronize"]
    session.run(clip(1), held)
    assert opened.calls() == ["synchronize", "malloc", "pinned", "upload", *addresses, "kernels", *back]
    session.run(clip(2), held)
    assert opened.calls() == ["synchronize", "upload", *addresses, "capture", "kernels", "launch", *back]
    session.run(clip(3), held)
    assert opened.calls() == ["synchronize", "upload", "launch", *back]


def test_a_switch_is_another_graph_and_copies_nothing(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    held = [session.hold(task(seed)) for seed in range(3)]
    for _ in range(2):
        for one in held:
            session.run(clip(0), one)
    opened.calls()
    for seed in (2, 0, 1, 1, 0):
        assert same(session.run(clip(seed), held[seed]), expected(**clip(seed), **task(seed)))
        assert opened.calls() == ["synchronize", "upload", "launch", "download", "download", "synchronize"]
    assert list(opened.cuda.alive.values()).count("capture") == 3


def test_results_and_values_are_the_callers_own(tmp_path):
    session = Opened(tmp_path).session()
    values = task(1)
    held = session.hold(values)
    values["key"][:] = 0
    first = session.run(clip(1), held)
    kept = {name: array.copy() for name, array in first.items()}
    session.run(clip(2), held)
    assert same(first, kept)
    assert same(first, expected(**clip(1), **task(1)))
    strided = clip(3) | {"key": np.repeat(task(3)["key"], 2, axis=2)[..., ::2], "weight": task(3)["weight"]}
    assert same(session.run(strided), expected(**strided))


def test_values_on_the_host_are_fed(tmp_path):
    opened = Opened(tmp_path)
    session, other = opened.session(), Opened(tmp_path).session()
    for held in (Held(task(1)), other.hold(task(1))):  # of no session, and of another one
        assert same(session.run(clip(1), held), expected(**clip(1), **task(1)))
    assert same(session.run({**clip(1), "weight": task(2)["weight"]}, session.hold({"key": task(1)["key"]})),
                expected(**clip(1), key=task(1)["key"], weight=task(2)["weight"]))  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_tasks_of_other_shapes_take_turns_on_graphs_of_their_own(tmp_path, version):
    opened = Opened(tmp_path, version, prompts=[1, 9])
    session = opened.session()
    held = {count: session.hold(task(count, count)) for count in (4, 7)}
    for _ in range(5):
        for count, one in held.items():
            opened.calls()
            assert same(session.run(clip(count), one), expected(**clip(count), **task(count, count)))
    if version.startswith("8."):  # one context: shapes that do not change have graphs
        assert "kernels" in opened.calls()
        session.run(clip(7), held[7])
        session.run(clip(7), held[7])
    assert opened.calls()[-5:] == ["upload", "launch", "download", "download", "synchronize"]
    assert list(opened.cuda.alive.values()).count("capture") == (1 if version.startswith("8.") else 2)


def test_shapes_that_were_used_longest_ago_make_room(tmp_path):
    opened = Opened(tmp_path, prompts=[1, 99])
    session = opened.session()
    held = {count: session.hold(task(count, count)) for count in range(1, CONTEXTS + 2)}
    for _ in range(2):
        for count in (1, *held, 1):
            assert same(session.run(clip(count), held[count]), expected(**clip(count), **task(count, count)))
    assert opened.calls().count("create context") == CONTEXTS
    for _ in range(2):
        session.run(clip(1), held[1])
    assert opened.calls()[-4:] == ["launch", "download", "download", "synchronize"]


def test_shapes_that_are_refused_leave_those_that_are_not(tmp_path):
    opened = Opened(tmp_path, "8.6.1", prompts=[1, 9])
    session = opened.session()
    held = [session.hold(task(count, count)) for count in (4, 7)]
    session.run(clip(1), held[0])
    opened.trt.refusing = {"shape"}
    with pytest.raises(ModelError, match="refuses the shape"):
        session.run(clip(1), held[1])
    opened.trt.refusing = set()
    gc.collect()
    for one, count in zip(held, (4, 7), strict=True):
        assert same(session.run(clip(2), one), expected(**clip(2), **task(count, count)))


def test_shapes_within_the_profiles_run_and_others_are_refused(tmp_path):
    opened = Opened(tmp_path, batch=[1, 4], prompts=[0, 9])
    session = opened.session()
    assert session.inputs["clip"].shape == (None, 2)
    assert session.outputs["logits"].shape == (None, 5)
    held = {count: session.hold(task(count, count)) for count in (0, 4, 9)}
    for batch, count in ((1, 4), (1, 4), (1, 4), (4, 9), (4, 9), (2, 4), (4, 0), (1, 4), (1, 4)):
        found = session.run(clip(batch, batch), held[count])
        assert same(found, expected(**clip(batch, batch), **task(count, count)))
    assert opened.calls().count("capture") == 2
    for name, array, complaint in (
        ("clip", clip(0, 5)["clip"], r"from 1x2 to 4x2\n  found: 5x2\n.*batch\.max"),
        ("clip", clip(0, 0)["clip"], r"found: 0x2\n.*give at least 1x2"),
        ("key", task(0, 10)["key"], "from 1x0x3 to 1x9x3"),
        ("key", task(0)["key"].astype(np.float16), "must be float32"),
        ("weight", task(0)["key"], "must be float16 of shape 1x5"),
    ):
        with pytest.raises(ModelError, match=complaint):
            session.run({**clip(0), **task(0), name: array})
        if name != "clip":
            with pytest.raises(ModelError, match=complaint):
                session.hold({name: array})
    assert same(session.run(clip(1), held[4]), expected(**clip(1), **task(4)))


def test_a_task_that_nobody_holds_is_given_back_with_its_graph(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    kept, gone = session.hold(task(1)), session.hold(task(2))
    for _ in range(3):
        session.run(clip(1), gone)
    alive = len(opened.cuda.alive)
    opened.calls()
    del gone
    assert opened.calls() == []  # any thread may have dropped it: the session does it later
    session.run(clip(1), kept)
    assert opened.calls()[:4] == ["synchronize", "synchronize", "destroy_graph", "free"]
    assert len(opened.cuda.alive) == alive - 2
    again = session.hold(task(3))  # where the other one lay, perhaps
    assert same(session.run(clip(1), again), expected(**clip(1), **task(3)))


def test_a_task_dropped_in_the_middle_of_a_capture_waits(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    held, others = session.hold(task(1)), [session.hold(task(2))]
    opened.cuda.during_capture = others.clear  # as a collector of garbage may
    for _ in range(3):
        assert same(session.run(clip(1), held), expected(**clip(1), **task(1)))
    assert others == []
    assert "free" in opened.calls()


def test_a_session_dropped_in_the_middle_of_a_capture_waits(tmp_path):
    cuda = HostCuda()
    opened, others = Opened(tmp_path, cuda=cuda), [Opened(tmp_path, cuda=cuda).session()]
    session = opened.session()
    held = session.hold(task(1))
    cuda.during_capture = others.clear
    for _ in range(2):
        assert same(session.run(clip(1), held), expected(**clip(1), **task(1)))
    assert (others, opened.calls().count("free")) == ([], 0)
    session.run(clip(1), held)
    assert "free" in opened.calls()
    session.close()
    assert cuda.alive == {}


def test_graphs_that_were_used_longest_ago_make_room(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tensorrt, "GRAPHS", 3)
    opened = Opened(tmp_path)
    session = opened.session()
    held = [session.hold(task(seed)) for seed in range(5)]
    for room, most in ((9, 3), (2, 2), (0, 0), (1, 1)):  # fewer where the device is full
        opened.cuda.graph_room = room
        for seed in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 0, 0, 0):
            assert same(session.run(clip(seed), held[seed]), expected(**clip(seed), **task(seed)))
        assert list(opened.cuda.alive.values()).count("capture") == most
    opened.calls()
    session.run(clip(0), held[0])
    assert "launch" in opened.calls()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("call", ["run", "hold", "compute_ms"])
def test_a_closed_session_says_so(tmp_path, call):
    opened = Opened(tmp_path)
    session = opened.session()
    session.close()
    opened.calls()
    with pytest.raises(ModelError, match="the session is closed"):
        getattr(session, call)(task(1) if call == "hold" else clip(1) | task(1))
    assert opened.calls() == []


def test_memory_is_freed_after_what_a_failed_run_left_running(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    kept, gone = session.hold(task(1)), session.hold(task(2))
    opened.cuda.failing = {"download"}
    with pytest.raises(AptEdgeError, match="CUDA failed in download"):
        session.run(clip(1), gone)
    opened.cuda.failing = set()
    del gone
    session.hold(task(3))  # the kernels of the run were not waited for: `HostCuda` lets nothing be freed before
    opened.cuda.failing = {"synchronize"}
    with pytest.raises(AptEdgeError, match="CUDA failed in synchronize"):
        session.hold(task(4))
    opened.cuda.failing = set()
    assert same(session.run(clip(2), kept), expected(**clip(2), **task(1)))


@pytest.mark.parametrize("failing", ["stream", "event", "pinned"])
def test_what_fails_while_opening_gives_back_the_rest(tmp_path, failing):
    opened = Opened(tmp_path)
    opened.cuda.failing = {failing}
    with pytest.raises(AptEdgeError, match=f"CUDA failed in {failing}"):
        opened.session()
    assert opened.cuda.alive == {}


@pytest.mark.parametrize("by", ["TensorRT", "TensorRT when it is asked", "CUDA"])
def test_what_cannot_be_captured_is_launched_one_by_one(tmp_path, by, capsys):
    opened = Opened(tmp_path, "rtx" if "asked" in by else "10.3.0")
    if by == "CUDA":
        opened.cuda.failing = {"capture"}
    elif by == "TensorRT":
        opened.trt.refusing = {"capture"}
    else:
        opened.trt.capturable = False
    session = opened.session()
    held = session.hold(task(1))
    for _ in range(3):
        assert same(session.run(clip(1), held), expected(**clip(1), **task(1)))
    assert opened.calls().count("capture") == ("asked" not in by)
    assert capsys.readouterr().err.count("runs without CUDA graphs") == 1


def test_kernels_alone_are_timed_between_two_events(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    held = session.hold(task(1))
    for _ in range(2):
        session.compute_ms(clip(1), held)
    opened.calls()
    assert session.compute_ms(clip(1), held) == 1
    assert opened.calls() == ["synchronize", "upload", "record", "launch", "record", "synchronize"]


def test_too_little_memory_is_told_before_anything_is_allocated(tmp_path):
    opened = Opened(tmp_path, cuda=HostCuda(free_memory=10))
    with pytest.raises(
        AptEdgeError, match=r"too little memory for the weights of .*model\.engine\n  found: .* 0 MB free"
    ):
        opened.session()
    assert "deserialize" not in opened.calls()
    opened.cuda.free_memory = 500
    with pytest.raises(AptEdgeError, match="for the activations of"):
        opened.session()
    assert "create context" not in opened.calls()
    assert opened.cuda.alive == {}
    opened.cuda.free_memory = 5000
    session = opened.session()
    held = session.hold(task(1))
    opened.cuda.free_memory = 500
    opened.calls()
    with pytest.raises(AptEdgeError, match=r"for another task[\s\S]*unload tasks"):
        session.hold(task(2))
    assert opened.calls() == ["synchronize"]
    opened.cuda.free_memory, opened.cuda.failing = 5000, {"malloc"}
    with pytest.raises(AptEdgeError, match=r"CUDA failed in malloc[\s\S]*unload tasks"):
        session.hold(task(2))
    alive = len(opened.cuda.alive)
    opened.cuda.failing = {"upload"}
    with pytest.raises(AptEdgeError, match="CUDA failed in upload"):
        session.hold(task(2))
    opened.cuda.failing = set()
    assert same(session.run(clip(1), held), expected(**clip(1), **task(1)))
    assert len(opened.cuda.alive) == alive + 2  # the clip's buffer and its staging: the task's is freed


@pytest.mark.parametrize(
    ("refused", "complaint"),
    [
        (
            "deserialize",
            r"tensorrt 10\.3\.0 cannot load.*\n  found: the reason .*\n  fix: .*another|build it again here",
        ),
        ("context", "has no room to run"),
        ("shape", "refuses the shape"),
    ],
)
def test_an_engine_that_cannot_run_here_says_how_to_rebuild(tmp_path, refused, complaint):
    opened = Opened(tmp_path)
    opened.trt.refusing = {refused}
    with pytest.raises(ModelError, match=complaint) as error:
        opened.session()
    assert f"the reason why {refused} is refused" in str(error.value)
    del error
    gc.collect()
    assert opened.cuda.alive == {}


def test_a_run_that_fails_leaves_the_session_usable(tmp_path):
    opened = Opened(tmp_path)
    session = opened.session()
    held = session.hold(task(1))
    opened.trt.refusing = {"execute"}
    with pytest.raises(ModelError, match="cannot run"):
        session.run(clip(1), held)
    opened.trt.refusing, opened.cuda.failing = set(), {"download"}
    with pytest.raises(AptEdgeError, match="CUDA failed in download"):
        session.run(clip(1), held)
    opened.cuda.failing = set()
    assert same(session.run(clip(2), held), expected(**clip(2), **task(1)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("key", {"dtype": Name.BF16}),
        ("clip", {"format": Name.CHW32}),
        ("logits", {"location": Name.HOST}),
    ],
)
def test_tensors_that_cannot_be_fed_or_read_are_refused(tmp_path, name, change):
    opened = Opened(tmp_path)
    opened.trt.changes = {name: change}
    with pytest.raises(ModelError, match=f"has a tensor {name} that cannot be fed or read"):
        opened.session()
    assert opened.cuda.alive == {}


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_everything_is_given_back_in_order(tmp_path, how):
    opened = Opened(tmp_path)
    session = opened.session()
    held = [session.hold(task(seed)) for seed in range(2)]
    for one in held * 2:
        session.run(clip(0), one)
    opened.calls()
    if how == "closed":
        session.close()
        session.close()
    del session
    if how == "dropped":
        assert opened.calls() == []  # in the middle of a capture, perhaps: the next session does it
        release_left()
    free, rest = ["free"] * 6, ["free_pinned"] * 3 + ["destroy_event"] * 2 + ["destroy_stream"]
    gone = ["context gone", "engine gone", "runtime gone"]
    begin = ["synchronize", "destroy_graph", "destroy_graph"]
    assert opened.calls() == [*begin, *gone, *free, *rest]
    assert opened.cuda.alive == {}
    del held
    assert opened.calls() == []


def test_a_file_that_is_no_engine(tmp_path):
    opened = Opened(tmp_path)
    opened.path.write_bytes(b"")
    with pytest.raises(ModelError, match="there is no engine"):
        opened.session()
    opened.path.unlink()
    with pytest.raises(ModelError, match="there is no engine"):
        opened.session()
