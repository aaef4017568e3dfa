"""The suite's part `runtime` on a backend that computes on the host: what it compares, and that it checks it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apt_edge.errors import GateError
from bench.gpu import running, runtime
from bench.gpu.record import Record
from tests.apt_edge.host_cuda import HostCuda
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
    monkeypatch.setattr(running, "WARM_SECONDS", 0.01)


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
