"""What only a GPU can do: graphs, the clock of the device, and the whole suite. A skip elsewhere is no pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.runtime.timing import wall_clock
from bench.gpu import parity
from bench.gpu.clips import drawn_clips
from bench.gpu.latency import replay_complaints
from bench.gpu.models import build, cast, contenders
from bench.gpu.running import EventClock, Running, circumstances, peak_mb
from bench.gpu.suite import BUDGETS, run_suite
from bench.rows import check_rows
from tests.bench.gpu.conftest import TRY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: CUDA graphs and events"),
]
CUDA = torch.device("cuda")


def running(graph: bool) -> dict[str, Running]:
    vit = random_backbone("nano")
    built = [build(vit, contender) for contender in contenders([16])]
    clips = drawn_clips(vit.config, 2)[0].to(CUDA, torch.float16)
    for model in built:
        cast(model.module, torch.float16).to(CUDA)
    return {model.contender.name: Running(model.module, clips, graph) for model in built}


def test_graphs_compute_what_their_models_compute() -> None:
    assert replay_complaints(running(graph=True)) == []


def test_a_graph_reads_the_clips_that_lie_there_now() -> None:
    session = running(graph=True)["APT-16"]
    before = session.result()
    session.clips.neg_()
    assert abs(session.result() - before).max() > 1e-3


def test_the_events_see_the_device_and_not_the_ballast() -> None:
    clock, product = EventClock(), torch.randn(4096, 4096, device=CUDA)

    def work() -> None:
        torch.mm(product, product)

    def waited() -> None:
        work()
        torch.cuda.synchronize()

    for _ in range(5):
        clock(waited)
    assert 0 <= clock(lambda: None) < clock(work)
    assert clock(work) < 2 * wall_clock(waited)


def test_peak_memory_holds_the_weights_and_the_clips() -> None:
    session = running(graph=False)["none"]
    weights = sum(p.numel() * p.element_size() for p in session.model.parameters())
    assert peak_mb(session.model, session.clips) > (weights + session.clips.nbytes) / 1e6


def test_circumstances_name_the_gpu() -> None:
    facts = circumstances(CUDA)
    assert facts["cuda"]["device"] == torch.cuda.get_device_name()
    assert facts["gpus"]


def test_the_whole_suite(tmp_path: Path) -> None:
    settings = replace(TRY, device="cuda", sizes=("nano",), tokens=(16,))
    results = run_suite(settings, [*BUDGETS], tmp_path)
    # Prompts of ten steps leave first labels close: parity is judged by its logits.
    assert [entry for entry in results["failed"] if not entry["step"].startswith("parity")] == []
    assert len(results["parity"]) == 8
    assert all(row["max_abs"] <= parity.TOLERANCE["max_abs"] * max(1, row["max_logit"]) for row in results["parity"])
    assert {row["clock"] for row in results["rows"] + results["switch"]} == {"cuda events"}
    assert {row["clock"] for row in results["steps"]} == {"host"}
    assert results == json.loads((tmp_path / "results.json").read_text())
    check_rows(results["rows"], tmp_path)
    sessions = [row["session"] for row in results["rows"]]
    assert (sessions.count("pytorch-cuda-graph"), sessions.count("pytorch-cuda-eager")) == (8, 2)
    assert all(row["memory"]["gpu_mb"] > 0 for row in results["rows"])
    assert {row["contender"] for row in results["switch"]} >= {"pointer", "copy on the device", "copy from the host"}
    assert {row["contender"] for row in results["runtime"]} >= {"pinned", "pageable", "graph", "one by one", "pointer"}
