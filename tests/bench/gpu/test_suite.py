"""The GPU suite as its user starts it: one script, nothing installed beyond PyTorch, numpy and safetensors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from apt_edge.errors import AptEdgeError, GateError
from apt_edge.files import write_json
from bench.gpu.record import Record
from bench.gpu.suite import BUDGETS, MARGIN, RESULTS, _part, complain, run_part, tables
from bench.rows import check_rows
from tests.bench.gpu.conftest import TRY

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "bench" / "gpu_suite.sh"
# What such a machine need not have: everything that some extra of the project asks for, and the suite does not.
ABSENT = ("pydantic", "av", "accelerate", "psutil", "jinja2", "matplotlib", "tqdm", "PIL", "tomli", "tensorboard")
ABSENT += ("onnx", "onnxruntime", "onnxscript", "onnx_ir", "openvino", "tensorrt", "tensorrt_rtx", "transformers")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment of processes in which none of `ABSENT` can be imported."""
    folder = tmp_path / "bare"
    folder.mkdir()
    lines = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    (folder / "sitecustomize.py").write_text(lines)
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def run_script(*words: str, env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True, check=False, env=env, cwd=cwd)


@pytest.mark.slow
@pytest.mark.slow
def test_the_script_on_a_bare_machine(bare: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()  # a folder of the caller's that is called like ours
    words = "--out found --device cpu --sizes nano --tokens 8 --batches 1 --rounds 10 --parts latency switch"
    done = run_script(*words.split(), env=bare, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "found" / RESULTS).read_text())
    assert (results["schema"], results["version"], results["failed"]) == ("apt-edge rows", 1, [])
    check_rows(results["rows"], RESULTS)
    assert [len(results[kind]) for kind in ("rows", "parity", "steps", "switch")] == [4, 0, 0, 6]
    assert done.stdout.strip() == tables(results)
    assert [path.name for path in (tmp_path / "found").iterdir()] == [RESULTS]


def test_every_module_is_found_on_a_bare_machine(bare: dict[str, str]) -> None:
    code = f"import importlib; [importlib.import_module('bench.gpu.' + part) for part in {[*BUDGETS]}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=bare, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_part_that_overruns_loses_what_it_had_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "part.json", {"failed": [], "switch": [{"contender": "kept"}]})
    found = run_part("switch", TRY, tmp_path / "part.json", budget=0.01)
    assert found["switch"] == [{"contender": "kept"}]
    (failure,) = found["failed"]
    assert (failure["step"], failure["gate"]) == ("switch", False)
    assert "ended after its 0 s" in failure["what"]


@pytest.mark.usefixtures("tiny_size")
def test_a_part_that_started_late_has_less_left(tmp_path: Path) -> None:
    """Its budget began before its process did: what starting and importing PyTorch take is spent."""
    _part("switch", TRY, tmp_path / "late.json", end=time.monotonic())
    data = json.loads((tmp_path / "late.json").read_text())
    assert "switch" not in data
    assert all("fewer than 10 rounds fit" in entry["what"] for entry in data["failed"])
    assert [entry["step"] for entry in data["failed"]] == ["switch tiny, apt", "switch tiny, vpt-deep"]
    assert Record(tmp_path / "x.json", time.monotonic() + MARGIN).share(2) <= MARGIN / 2


def test_a_terminated_suite_leaves_no_process(bare: dict[str, str], tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "x"), "--device", "cpu", "--sizes", "nano", "--parts", "steps"]
    with subprocess.Popen(["bash", SCRIPT, *words], stderr=subprocess.PIPE, text=True, env=bare, cwd=ROOT) as suite:
        assert suite.stderr is not None
        assert any("steps nano ..." in line for line in suite.stderr)
        parts = psutil.Process(suite.pid).children(recursive=True)
        suite.terminate()
        assert suite.wait(30) == 143
    assert parts
    assert psutil.wait_procs(parts, 10)[1] == []


def test_a_part_that_crashes_is_named(tmp_path: Path) -> None:
    found = run_part("parity", replace(TRY, device="abacus"), tmp_path / "part.json", budget=60)
    assert found["failed"] == [
        {"step": "parity", "what": "ended with exit code 1; what it had written is kept", "gate": False}
    ]


def test_a_step_that_runs_out_of_memory_fails_alone(tmp_path: Path) -> None:
    import torch

    record = Record(tmp_path / "part.json", time.monotonic() + 60)
    with record.step("first"):
        torch.empty(1 << 60)
    with record.step("second"):
        record.add("rows", [{"contender": "a"}])
    with record.step("third"):
        raise GateError("it does not agree", found="1 against 2")
    data = json.loads(record.path.read_text())
    assert data["rows"] == [{"contender": "a"}]
    first, third = data["failed"]
    assert first["step"] == "first"
    assert "RuntimeError" in first["what"]
    assert third == {"step": "third", "what": "it does not agree (1 against 2)", "gate": True}


def test_failures_decide_about_the_exit_code() -> None:
    complain({"failed": []})
    missing = {"step": "steps vit-base", "what": "OutOfMemoryError: ...", "gate": False}
    with pytest.raises(AptEdgeError, match="steps vit-base: OutOfMemoryError") as raised:
        complain({"failed": [missing]})
    assert raised.value.exit_code == 1
    with pytest.raises(GateError):
        complain({"failed": [missing, missing | {"gate": True}]})


def test_the_budgets_stay_below_eight_minutes_and_are_told() -> None:
    assert sum(BUDGETS.values()) <= 8 * 60 - 25  # the rest is starting up
    text = SCRIPT.read_text()
    told = {name: int(seconds) for name, seconds in re.findall(r"^  (\w+) .*?at most +(\d+) s$", text, re.M | re.S)}
    assert told == BUDGETS


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_tells_what_to_do(bare: dict[str, str], tmp_path: Path) -> None:
    done = run_script("--out", "x", "--help", env={**bare, "PYTHON": "/no/python"})
    assert (done.returncode, done.stdout[:6]) == (0, "usage:")
    assert run_script(env=bare).returncode == 2
    done = run_script("--out", "x", env={**bare, "PYTHON": "/no/python"})
    assert (done.returncode, "there is no /no/python" in done.stderr) == (1, True)
    (tmp_path / "bare" / "sitecustomize.py").write_text("import sys\nsys.modules['numpy'] = None\n")
    done = run_script("--out", str(tmp_path / "x"), env=bare)
    assert (done.returncode, "lacks a package" in done.stderr) == (1, True)
    assert not (tmp_path / "x").exists()


def test_the_part_runtime_alone_needs_no_pytorch(bare: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bare" / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    env, out = {**bare, "CUDA_VISIBLE_DEVICES": ""}, tmp_path / "x"
    done = run_script("--out", str(out), "--parts", "switch", "runtime", env=env)
    assert (done.returncode, "these parts need PyTorch" in done.stderr) == (1, True)
    assert not out.exists()
    done = run_script("--out", str(out), "--parts", "runtime", env=env)
    (failure,) = json.loads((out / RESULTS).read_text())["failed"]
    assert (done.returncode, failure["step"]) == (1, "runtime")
    assert "no NVIDIA GPU that it can use" in failure["what"] or "is installed" in failure["what"]


def test_without_a_gpu_it_says_so(bare: dict[str, str], tmp_path: Path) -> None:
    done = run_script("--out", str(tmp_path / "x"), env={**bare, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "needs an NVIDIA GPU, and PyTorch finds none" in done.stderr
    assert not (tmp_path / "x").exists()
