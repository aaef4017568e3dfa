"""TensorRT's timing cache: kernel timings of earlier builds. TensorRT-RTX times nothing and has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apt_edge.errors import AptEdgeError
from apt_edge.files import atomic


def load_timing_cache(config: Any, errors: list[str], path: Path) -> None:
    """Give the timings in `path`, or an empty cache when there is no such file, to a builder configuration.

    Args:
        config: the builder configuration.
        errors: the logger's list of errors; TensorRT may log one and go on without the timings.
        path: the cache.

    Raises:
        AptEdgeError: the file is damaged, or was made by another TensorRT or on another GPU.
    """
    before = len(errors)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False) or len(errors) > before:
        raise AptEdgeError(
            f"the timing cache {path} is damaged, or of another TensorRT or GPU",
            found="; ".join(errors[before:]) or "TensorRT refuses it",
            fix=f"delete {path}: the build makes a new one",
        )


def save_timing_cache(config: Any, path: Path) -> None:
    """Write the timings of a finished build, with those it started from."""
    with atomic(path) as temporary:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
