"""Energy of a run, where the machine meters it. The standard library alone.

All meters count joules of a whole device, idle power and the work of others included: RAPL those of the processors and
their memory, NVML those of one GPU, tegrastats those of a Jetson module.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
INTERVAL_MS = 100
# A rail and its milliwatts, now and on average: `VDD_IN 4722mW/4722mW`, without the unit before JetPack 5.
RAIL = re.compile(r"\b([A-Z]\w*) (-?\d+)(?:mW)?/-?\d+(?:mW)?(?!\S)")
INPUTS = ("VDD_IN", "POM_5V_IN", "VIN")  # what all other rails are fed from, where the module has such a rail
INSIDE = ("VDDQ_VDD2_1V8AO",)  # fed from another rail, VIN_SYS_5V0


class Meter(Protocol):
    """A counter of joules.

    Attributes:
        source: `rapl`, `nvml` or `tegrastats`.
    """

    source: str

    def joules(self) -> float:
        """Joules since some moment; advances in steps."""
        ...


def find_meter(gpu: bool = False) -> Meter | None:
    """The meter of this machine that counts what a processor, or a GPU, spends; None when nothing can be read."""
    makers: list[Callable[[], Meter]] = [Tegrastats, Nvml if gpu else Rapl]
    for make in makers:
        with suppress(OSError):
            return make()
    return None


def energy_per_run(
    contenders: Mapping[str, Callable[[], object]],
    meter: Meter,
    seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float | None]:
    """Joules of one run of each contender.

    Counters advance every millisecond (RAPL) or every tenth of a second (NVML, tegrastats), which may be longer than a
    run. So contenders do not take turns run by run here: each works alone for half of `seconds`, and in mirrored order
    for the other half; its joules between two steps of the counter are divided by its runs between them.

    Returns:
        Joules by name; None where the counter did not advance, and nothing can be said.
    """
    spent: dict[str, list[tuple[float, int]]] = {name: [] for name in contenders}
    for name in (*contenders, *reversed(list(contenders))):
        if measured := _between_steps(contenders[name], meter, seconds / 2, clock):
            spent[name].append(measured)
    return {
        name: sum(joules for joules, _ in parts) / sum(runs for _, runs in parts) if len(parts) == 2 else None
        for name, parts in spent.items()
    }


def _between_steps(
    run: Callable[[], object], meter: Meter, seconds: float, clock: Callable[[], float]
) -> tuple[float, int] | None:
    """Joules and runs from one step of the counter to the first one after `seconds`; None when there are no two."""
    start: float | None = None
    first = last = meter.joules()
    runs, give_up = 0, clock() + 2 * seconds
    while (now := clock()) < give_up:
        run()
        runs, before, last = runs + 1, last, meter.joules()
        if last == before:
            continue
        if start is None:
            start, first, runs = now, last, 0
        elif now >= start + seconds:
            return last - first, runs
    return None


class Rapl:
    """The energy counters of Linux's powercap: processor packages and, where told, their memory.

    Args:
        root: of the zones.

    Raises:
        OSError: there are none, or only the superuser may read them.
    """

    source = "rapl"

    def __init__(self, root: Path = POWERCAP) -> None:
        named = {zone: (zone / "name").read_text().strip() for zone in sorted(root.glob("intel-rapl:*"))}
        # Cores are within their package, and `psys` holds the packages.
        zones = [zone for zone, name in named.items() if name.startswith("package") or name == "dram"]
        if not zones:
            raise FileNotFoundError(f"no RAPL zone in {root}")
        self._ranges = {zone: int((zone / "max_energy_range_uj").read_text()) for zone in zones}
        self._last = {zone: self._read(zone) for zone in zones}
        self._spent = 0

    def joules(self) -> float:
        """Joules since this object was made; to be read at least once between two wraps of a counter, some minutes."""
        for zone, last in self._last.items():
            now = self._read(zone)
            self._spent += now - last if now >= last else now + self._ranges[zone] - last
            self._last[zone] = now
        return self._spent / 1e6

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())


class Nvml:
    """NVIDIA's counter of one GPU, the first that CUDA may use; Volta or newer.

    Args:
        library: NVML, as ctypes loads it; the driver's when None.

    Raises:
        OSError: there is no driver, no such GPU, or it does not count.
    """

    source = "nvml"

    def __init__(self, library: Any = None) -> None:
        self._library = ctypes.CDLL(NVML) if library is None else library
        self._device = ctypes.c_void_p()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        self._call("nvmlInit_v2")
        if first.isdecimal():
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(first)), ctypes.byref(self._device))
        else:
            self._call("nvmlDeviceGetHandleByUUID", first.encode(), ctypes.byref(self._device))
        self.joules()

    def joules(self) -> float:
        """Joules since the driver was loaded."""
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._library, function)(*arguments):
            raise OSError(f"{function} returned {code}")


class Tegrastats:
    """Power of a Jetson module as tegrastats tells it, integrated over time by a thread.

    Args:
        program: tegrastats; it runs until this object is gone.
        interval_ms: between two of its lines.

    Raises:
        OSError: there is no such program, or it tells no power.
    """

    source = "tegrastats"

    def __init__(self, program: str = "tegrastats", interval_ms: int = INTERVAL_MS) -> None:
        if not shutil.which(program):
            raise FileNotFoundError(f"{program} is not installed")
        process = subprocess.Popen(
            [program, "--interval", str(interval_ms)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._stop = weakref.finalize(self, _stop, process)
        assert process.stdout is not None  # a pipe
        if module_milliwatts(process.stdout.readline()) is None:
            self._stop()
            raise OSError(f"{program} tells no power")
        self._spent = [0.0]
        threading.Thread(target=_integrate, args=(process.stdout, self._spent), daemon=True).start()

    def joules(self) -> float:
        """Joules since this object was made."""
        return self._spent[0]


def module_milliwatts(line: str) -> int | None:
    """The power of a whole Jetson module in a line of tegrastats; None when it tells none.

    Orin NX, Orin Nano, Xavier NX, TX2: VDD_IN; Nano, TX1: POM_5V_IN; Thor: VIN; AGX Orin, AGX Xavier: sum of the rails.
    """
    rails = {name: int(now) for name, now in RAIL.findall(line) if name not in INSIDE}
    whole = [rails[name] for name in INPUTS if name in rails]
    return (whole[0] if whole else sum(rails.values())) if rails else None


def _integrate(lines: Iterable[str], spent: list[float]) -> None:
    """Trapezoids between the lines, in joules."""
    before: tuple[float, int] | None = None
    for line in lines:
        now, milliwatts = time.monotonic(), module_milliwatts(line)
        if milliwatts is None:
            continue
        if before is not None:
            spent[0] += (now - before[0]) * (milliwatts + before[1]) / 2e3
        before = now, milliwatts


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()
