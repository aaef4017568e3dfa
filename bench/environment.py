"""The circumstances of a measurement: a number without them cannot be compared with anything."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import psutil

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
CPUINFO = Path("/proc/cpuinfo")


def environment(threads: int) -> dict[str, Any]:
    """Processor, versions and load.

    `governor` is None where the system does not tell, `openvino` where it is not installed.
    `load_average` is the one-minute average before the measurement: more than a little means that others were working.
    """
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "threads": threads,
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.is_file() else None,
        "load_average": round(psutil.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": _openvino(),
    }


def _openvino() -> str | None:
    """The installed version; it is optional."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
