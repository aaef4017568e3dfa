"""Meters of energy on trees and programs that look like a machine's, and joules shared out among contenders."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from apt_edge.runtime.energy import Nvml, Rapl, Tegrastats, energy_per_run, find_meter, module_milliwatts
from tests.apt_edge.machine_clock import Machine

WRAP = 262_143_328_850


def zone(root: Path, name: str, kind: str, microjoules: int) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "name").write_text(f"{kind}\n")
    (path / "max_energy_range_uj").write_text(f"{WRAP}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path


def test_rapl_adds_packages_and_memory_over_wraps(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", WRAP - 1_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 5_000_000)
    for name, kind in (("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys"), ("intel-rapl-mmio:0", "package-0")):
        zone(tmp_path, name, kind, 0)
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    (package / "energy_uj").write_text("2000000")
    (memory / "energy_uj").write_text("5500000")
    assert meter.joules() == pytest.approx(3.5)
    (package / "energy_uj").write_text("2250000")
    assert meter.joules() == pytest.approx(3.75)


def test_rapl_that_is_absent_or_locked(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no RAPL zone"):
        Rapl(tmp_path)
    (zone(tmp_path, "intel-rapl:0", "package-0", 0) / "energy_uj").unlink()
    with pytest.raises(OSError, match="energy_uj"):
        Rapl(tmp_path)


NVML_C = """
static unsigned long long energy = 41500;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &energy; return index == 0 ? 0 : 2; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = &energy; return uuid[0] == 'G' ? 0 : 6; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
    *mj = *(unsigned long long *)device; energy += 250; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_nvml_counts_the_first_gpu_that_cuda_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvml.c").write_text(NVML_C)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "nvml.so", tmp_path / "nvml.c"], check=True)
    library = ctypes.CDLL(str(tmp_path / "nvml.so"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Nvml(library).joules() == pytest.approx(41.75)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1234,GPU-5678")
    assert Nvml(library).joules() > 41.75
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(OSError, match="ByIndex_v2 returned 2"):
        Nvml(library)


LINES = {
    "Orin NX": (
        "06-01-2026 10:00:00 RAM 3276/15523MB (lfb 5x4MB) SWAP 16/7761MB (cached 1MB) CPU [4%@729,off,1%@729] "
        "GR3D_FREQ 0% cpu@45.2C tj@46C VDD_IN 4722mW/4800mW VDD_CPU_GPU_CV 497mW/500mW VDD_SOC 1423mW/1400mW",
        4722,
    ),
    "AGX Orin": (
        "RAM 1/2MB tj@77.2C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW VIN_SYS_5V0 4968mW/5048mW "
        "VDDQ_VDD2_1V8AO 1091mW/1091mW",
        3150 + 14312 + 4968,
    ),
    "AGX Thor": (
        "RAM 1/2MB VDD_GPU -392mW/0mW VDD_CPU_SOC_MSS 3924mW/3924mW VIN_SYS_5V0 5200mW/5200mW VIN 23000mW/23010mW",
        23000,
    ),
    "AGX Xavier, JetPack 4": ("RAM 1/2MB GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 155/155 SYS5V 1478/1478", 2876),
    "TX2, JetPack 4": ("RAM 1/2MB PMIC@50C VDD_SYS_GPU 182/182 VDD_SYS_SOC 730/730 VDD_IN 5297/5297", 5297),
    "Nano, JetPack 4": ("RAM 1/2MB SWAP 0/1MB POM_5V_IN 2210/2200 POM_5V_GPU 80/80 POM_5V_CPU 400/390", 2210),
    "without root": ("RAM 3276/7859MB (lfb 5x4MB) SWAP 1626/12122MB (cached 181MB) GR3D_FREQ 0% tj@46C", None),
}


@pytest.mark.parametrize(("line", "milliwatts"), LINES.values(), ids=LINES)
def test_lines_of_tegrastats(line: str, milliwatts: int | None) -> None:
    assert module_milliwatts(line) == milliwatts


def tegrastats(folder: Path, line: str) -> Path:
    """A program that prints a line ten times and then waits, as long as its reader lives."""
    path = folder / "tegrastats"
    path.write_text(f"""#!/bin/sh
[ "$1" = --interval ] || exit 2
for i in 1 2 3 4 5 6 7 8 9 10; do echo "{line}"; sleep 0.02; done
echo $$ > {folder}/new
mv {folder}/new {folder}/pid
exec sleep 60
""")
    path.chmod(0o755)
    return path


def test_tegrastats_is_integrated_over_time_and_stopped(tmp_path: Path) -> None:
    begin = time.monotonic()
    meter = Tegrastats(str(tegrastats(tmp_path, "RAM 1/2MB VDD_IN 5000mW/5000mW VDD_SOC 1000mW/1000mW")), 20)
    while not (tmp_path / "pid").is_file():
        time.sleep(0.01)
    joules, most = meter.joules(), 5 * (time.monotonic() - begin)
    assert 5 * 0.08 <= joules <= most  # half of eight intervals of 20 ms; the first line is not counted
    process = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{process}").is_dir()
    del meter
    assert not Path(f"/proc/{process}").is_dir()


def test_what_this_machine_meters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="tells no power"):
        Tegrastats(str(tegrastats(tmp_path, "RAM 1/2MB")))
    with pytest.raises(OSError, match="not installed"):
        Tegrastats(str(tmp_path / "nothing"))
    tegrastats(tmp_path, "VDD_IN 5000mW/5000mW")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for gpu in (False, True):
        meter = find_meter(gpu)
        assert meter is not None
        assert meter.source == "tegrastats"


class Counter:
    """Joules at a known power per contender, told in steps of `step_ms` of the machine's time."""

    source = "rapl"

    def __init__(self, machine: Machine, watts: dict[str, float], step_ms: float) -> None:
        self.machine, self.watts, self.step_ms = machine, watts, step_ms
        self.spent = self.told = self.before = 0.0

    def joules(self) -> float:
        before, now = self.before, self.machine.now
        if self.machine.calls and now > before:
            watts = self.watts[self.machine.calls[-1]]
            step = now // self.step_ms * self.step_ms
            if step > before // self.step_ms * self.step_ms:
                self.told = self.spent + watts * (step - before) / 1e3
            self.spent += watts * (now - before) / 1e3
        self.before = now
        return self.told


@pytest.mark.parametrize("step_ms", [1, 100])
@pytest.mark.parametrize("ms", [3, 7, 300])
def test_joules_belong_to_the_contender_that_spent_them(step_ms: float, ms: float) -> None:
    machine = Machine()
    contenders = {name: machine.contender(name, cost) for name, cost in (("a", ms), ("b", 2 * ms))}
    counter = Counter(machine, {"a": 10, "b": 30}, step_ms)
    found = energy_per_run(contenders, counter, 20, lambda: machine.now / 1e3)
    assert found["a"] == pytest.approx(10 * ms / 1e3, rel=0.02)
    assert found["b"] == pytest.approx(30 * 2 * ms / 1e3, rel=0.02)
    order = "".join(machine.calls)
    assert order.lstrip("a").lstrip("b").strip("a") == ""
    assert order[0] == order[-1] == "a"


def test_a_counter_that_stands_still_says_nothing() -> None:
    machine = Machine()
    counter = Counter(machine, {"a": 10}, 1e9)
    assert energy_per_run({"a": machine.contender("a", 5)}, counter, 1, lambda: machine.now / 1e3) == {"a": None}
    assert machine.now <= 4000
