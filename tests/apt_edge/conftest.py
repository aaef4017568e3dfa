"""Models for several tasks, made once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apt_edge.task_models import write_models


@pytest.fixture(scope="session")
def task_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_models` writes; copy a model before changing it."""
    root = tmp_path_factory.mktemp("tasks")
    write_models(root)
    return root
