"""Settings that a CPU can try the GPU suite with, and a place for what a part finds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from apt_edge.backbone.vit import SIZES
from bench.gpu.record import Record, Settings
from tests.conftest import TINY

TRY = Settings(device="cpu", sizes=("tiny",), tokens=(6,), batches=(1, 2), rounds=10)


@pytest.fixture
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of two blocks, by name."""
    monkeypatch.setitem(SIZES, "tiny", TINY)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """An empty record with a generous budget."""
    return Record(tmp_path / "part.json", end=time.monotonic() + 600)
