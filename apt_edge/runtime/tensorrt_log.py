"""The one logger of TensorRT, or TensorRT-RTX, in this process: both keep writing to the first that they were given."""

from __future__ import annotations

from functools import cache
from typing import Any

MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}  # runtime of a target -> its Python package


@cache
def logger(trt: Any) -> Any:
    """A `trt.ILogger` of a package that keeps all messages in `lines` and errors in `errors`; its users clear them."""

    class Log(trt.ILogger):
        """Keeps every message: a builder's verbose ones hold the layer table."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Log()
