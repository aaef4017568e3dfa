"""The suite's part `runtime` on a backend that computes on the host: what it compares, and that it checks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import GateError
from apt_edge.runtime.tensorrt import TensorRtSession
from bench.gpu import rounds, runtime
from bench.gpu.record import Record
from tests.apt_edge.host_cuda import HostCuda
from tests.apt_edge.test_tensorrt import Opened, clip, task
from tests.bench.gpu.conftest import TRY

CONTENDERS = {
    "transfers": ["pinned", "pageable", "pageable by way of pinned"],
    "launches": ["graph", "one by one"],
    "switches": ["same task", "pointer", "copy on the device", "copy from the host"],
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("CLIP_BYTES", 64), ("PROMPT_BYTES", 256), ("LAUNCH_BYTES", 16), ("LAUNCHES", 5)):
        monkeypatch.setattr(runtime, name, size)
    monkeypatch.setattr(rounds, "WARM_SECONDS", 0.01)


def test_every_group_gives_rows_and_everything_back() -> None:
    assert [*runtime.GROUPS] == [*CONTENDERS]
    for title, names in CONTENDERS.items():
        cuda = HostCuda()
        rows = runtime.group(cuda, title, TRY, seconds=20)
        assert [row["contender"] for row in rows] == names
        assert {(row["suite"], row["session"], row["clock"]) for row in rows} == {(f"runtime {title}", "host", "host")}
        assert rows[0]["verdict"] == "baseline"
        assert all(len(row["times_ms"]) == 10 for row in rows)
        assert cuda.alive == {}


@pytest.mark.parametrize("title", CONTENDERS)
def test_copies_that_do_not_arrive_are_a_failed_gate(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = HostCuda()
    monkeypatch.setattr(cuda, "_move", lambda target, source, size: None)
    with pytest.raises(GateError, match=r"does not arrive|was captured|the one that ran"):
        runtime.group(cuda, title, TRY, seconds=20)
    assert cuda.alive == {}


def sessions(folder: Path) -> tuple[TensorRtSession, TensorRtSession]:
    """An engine with graphs and the same without."""
    with_graphs, plain = (Opened(folder).session() for _ in range(2))
    plain.graphs = False
    return with_graphs, plain


def test_an_engine_runs_every_task_by_every_way(tmp_path: Path) -> None:
    session, plain = sessions(tmp_path)
    contenders = runtime.engine_contenders(session, plain, clip(1) | task(1))
    assert [*contenders] == ["graph", "one by one", "pointer", "prompts fed"]
    for go in contenders.values():
        go()
    assert len(session._owned.graphs) == 1 + runtime.TASKS  # of each task, and of what is fed
    assert not plain._owned.graphs
    assert [len(runtime.scaled(prompts)) for prompts in ({}, task(1))] == [1, runtime.TASKS]


def test_an_engine_that_does_not_see_its_task_is_a_failed_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = {name: np.zeros_like(array) for name, array in task(1).items()}
    with pytest.raises(GateError, match="two tasks have the same logits"):
        runtime.engine_contenders(*sessions(tmp_path), clip(1) | blank)
    session, plain = sessions(tmp_path)
    first = session.hold(task(1))
    monkeypatch.setattr(session, "hold", lambda values: first)  # a switch that switches nothing
    with pytest.raises(GateError, match="graph gives task 1 other logits"):
        runtime.engine_contenders(session, plain, clip(1) | task(1))


def test_without_a_gpu_it_is_left_out_when_the_suite_is_tried_and_named_when_it_is_asked_for(
    record: Record, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.run(TRY, record)
    assert record.data == {"failed": []}
    assert "runtime needs a GPU: left out" in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runtime.run(replace(TRY, device="cuda"), record)
    (failure,) = record.data["failed"]
    assert (failure["step"], failure["gate"]) == ("runtime", False)
    assert "no NVIDIA GPU that it can use" in failure["what"] or "is installed" in failure["what"]
