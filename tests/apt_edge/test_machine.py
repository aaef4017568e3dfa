"""What a measurement says of its machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from apt_edge.runtime.machine import device_name, machine, usable_cores


def test_the_machine_tells_what_it_is() -> None:
    facts = machine(threads=3)
    assert (facts["threads"], machine()["threads"]) == (3, None)
    assert facts["cores"] == os.cpu_count()
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["packages"]["torch"]
    assert device_name(facts)
    json.dumps(facts, allow_nan=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets the cores of this process")
def test_cores_that_are_not_ours_are_not_counted() -> None:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert usable_cores() == len(mine)


def test_power_mode_and_clocks_of_a_jetson_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {"nvpmodel": "echo NV Power Mode: MAXN", "jetson_clocks": "echo root is needed >&2; exit 3"}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    commands = machine()["commands"]
    assert commands["nvpmodel -q"] == "NV Power Mode: MAXN"
    assert commands["jetson_clocks --show"] == "failed with exit code 3: root is needed"


@pytest.mark.parametrize(
    ("facts", "gpu", "name"),
    [
        ({"cpu": "AMD EPYC 7763 64-Core Processor"}, False, "AMD EPYC 7763"),
        ({"cpu": "Intel(R) Xeon(R) Platinum 8275CL CPU @ 3.00GHz", "gpus": []}, True, "Intel Xeon Platinum 8275CL"),
        ({"cpu": "AMD EPYC", "gpus": [{"name": "NVIDIA H200"}]}, True, "NVIDIA H200"),
        ({"cpu": "AMD EPYC", "gpus": [{"name": "NVIDIA H200"}]}, False, "AMD EPYC"),
        (
            {"board": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "l4t": "R36"},
            True,
            "Jetson Orin NX",
        ),
        ({"board": "NVIDIA Orin NX Developer Kit", "l4t": "R35"}, False, "Jetson Orin NX"),
        ({"board": "Raspberry Pi 5 Model B Rev 1.0", "l4t": None}, False, "Raspberry Pi 5 Model B Rev 1.0"),
        ({"cpu": None, "architecture": "aarch64"}, False, "aarch64"),
    ],
)
def test_headings_name_the_hardware(facts: dict[str, object], gpu: bool, name: str) -> None:
    assert device_name(facts, gpu) == name
