"""What real bundles and the GPU suite send is taken; what cannot be trusted is refused, and nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apt_edge.errors import ConfigError, GateError
from apt_edge.files import sha256, write_json
from apt_edge.runtime.bundle import write_sums
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.results import collect, measure
from apt_edge.runtime.selftest import session_selftest
from bench.graph import graph_macs
from bench.ingest import ingest
from bench.report import make_report
from bench.rows import check_rows, read_rows
from bench.sent import SUITE, VERSIONS
from export.to_bundle import to_bundle
from tests.bench.measured import ENVIRONMENT, measured, noisy
from tests.bench.rows_example import EQUAL
from tests.export.bundle.conftest import run_script  # noqa: F401 - a fixture
from tests.export.bundle.models import make_model
from tests.export.trtexec import fake


def returned(model: Path, bundle: Path, **facts: Any) -> Path:
    """`results.json` of a bundle in ONNX Runtime: self-tested, measured and collected here."""
    shutil.copytree(model, bundle)
    sidecar = json.loads((bundle / "model.json").read_text())
    write_json(bundle / "model.json", sidecar | {"backbone": {"name": "tiny", "sha256": "00"}} | facts)
    write_sums(bundle)
    loaded = ModelDir.load(bundle)
    session_selftest(loaded)
    measure(loaded, seconds=0.01, threads=1)
    assert collect(bundle)["failed"] == []
    return bundle / "results.json"


@pytest.fixture(scope="module")
def sent(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results of two models: without prompts, and APT."""
    root = tmp_path_factory.mktemp("sent")
    return {
        "linear": returned(exported / "linear", root / "linear", prompt_tokens={}),
        "apt": returned(exported / "apt", root / "apt", prompt_tokens={"1": 6}),
    }


def changed(path: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a result in which one thing is different."""
    data = json.loads(path.read_text())
    change(data)
    to.write_text(json.dumps(data))
    return to


def test_bundles_become_rows_against_the_one_without_prompts(
    sent: dict[str, Path], exported: Path, tmp_path: Path
) -> None:
    models = [exported / "linear", exported / "apt"]
    rows, failed = ingest([sent["apt"], sent["linear"]], tmp_path, models)
    assert rows == read_rows(tmp_path / "rows.json")
    check_rows(rows, "here")
    assert failed == []
    apt, linear = rows
    assert (apt["contender"], linear["contender"]) == ("apt 6 float32", "linear float32")
    assert apt["suite"] == linear["suite"] == "onnxruntime-cpu tiny"
    assert (apt["session"], apt["mode"], apt["batch"], apt["tokens"]) == ("onnxruntime-cpu", "single-stream", 1, 6)
    assert apt["times_ms"] == json.loads(sent["apt"].read_text())["times"]["inference"]["times_ms"]
    assert apt["environment"]["threads"] == 1
    assert (apt["baseline"], apt["verdict"]) == ("linear float32", "not paired")
    assert apt["latency_ratio"] == apt["latency_ms_median"] / linear["latency_ms_median"]
    assert (apt["latency_ratio_low"], linear["verdict"], linear["latency_ratio"]) == (None, "baseline", 1)
    assert apt["gmacs"] == graph_macs(exported / "apt" / "model.onnx") / 1e9
    assert apt["gmacs_ratio"] == apt["gmacs"] / linear["gmacs"] > 1
    assert apt["parity"]["passed"]
    assert apt["source"]["sha256"] == sha256(sent["apt"])
    assert apt["memory"] == json.loads(sent["apt"].read_text())["times"]["inference"]["memory"]
    assert apt["memory"].keys() == {"rss_mb", "activation_mb", "gpu_mb"}
    assert (apt["agreement"], apt["clock"], apt["built"]) == (None, "host", "apt-edge")


def test_what_a_device_metered_reaches_the_row(sent: dict[str, Path], tmp_path: Path) -> None:
    energy, memory = {"joules_per_clip": 0.5, "source": "tegrastats"}, {"activation_mb": 15.8, "gpu_mb": None}

    def put(data: dict[str, Any]) -> None:
        data["times"]["inference"] |= {"energy": energy, "memory": memory | {"rss_mb": None}}

    def drop(data: dict[str, Any]) -> None:  # as files of earlier bundles
        data["times"]["inference"].pop("energy")
        data["times"]["inference"].pop("memory")

    (row,), _ = ingest([changed(sent["apt"], tmp_path / "metered.json", put)], tmp_path / "out")
    assert (row["energy"], row["memory"]) == (energy, memory | {"rss_mb": None})
    (row,), _ = ingest([changed(sent["apt"], tmp_path / "old.json", drop)], tmp_path / "old")
    assert (row["energy"], row["memory"]) == (None, None)
    wrong = changed(sent["apt"], tmp_path / "wrong.json", lambda data: (put(data), energy.pop("source")))
    with pytest.raises(ConfigError, match=r"times\.inference\.energy\.source: Field required"):
        ingest([wrong], tmp_path / "wrong")


def test_files_are_added_to_earlier_ones(sent: dict[str, Path], tmp_path: Path) -> None:
    alone, _ = ingest([sent["apt"]], tmp_path)
    assert (alone[0]["baseline"], alone[0]["latency_ratio"], alone[0]["gmacs"]) == (None, None, None)
    both, _ = ingest([sent["linear"]], tmp_path)
    assert [row["baseline"] for row in both] == ["linear float32"] * 2
    with pytest.raises(ConfigError, match=r"results\.json is results\.json in .*rows\.json once more"):
        ingest([sent["apt"]], tmp_path)
    copy = shutil.copy(sent["apt"], tmp_path / "copy.json")
    with pytest.raises(ConfigError, match=r"copy\.json is .*results\.json once more"):
        ingest([sent["apt"], Path(copy)], tmp_path / "other")
    assert read_rows(tmp_path / "rows.json") == both
    assert not (tmp_path / "other").exists()


def test_one_model_measured_twice_is_two_contenders(sent: dict[str, Path], tmp_path: Path) -> None:
    again = changed(sent["apt"], tmp_path / "again.json", lambda data: data.update(created="2030-01-01T00:00:00+00:00"))
    slow = changed(
        sent["linear"], tmp_path / "slow.json", lambda data: data["times"]["inference"]["session"].update(threads=7)
    )
    rows, _ = ingest([sent["apt"], again, slow], tmp_path / "out")
    assert [row["contender"] for row in rows] == ["apt 6 float32", "apt 6 float32 #2", "linear float32"]
    assert [row["baseline"] for row in rows] == [None, None, "linear float32"]  # of other threads


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data.update(schema="something"), r"not what a device sends\n.*'something'"),
        (lambda data: data.update(version=2), r"another version of apt-edge results\n.*version 2"),
        (lambda data: data.pop("failed"), r"is damaged\n.*failed: Field required"),
        (lambda data: data["model"].pop("onnx_sha256"), r"is damaged\n.*model\.onnx_sha256: Field required"),
        (lambda data: data["times"]["inference"].update(times_ms=[]), r"times\.inference\.times_ms"),
        (lambda data: data["times"]["inference"].update(median=float("nan")), r"times\.inference\.median: .*finite"),
        (lambda data: data["times"]["inference"].update(median=0.001), r"contradicts itself\n.*median is 0\.001"),
        (lambda data: data["times"]["inference"]["times_ms"].append(1.0), "contradicts itself"),
        (lambda data: data["times"].update(inference=None), "has no measurement"),
        (lambda data: data["times"].update(other=data["times"]["inference"]), "has no measurement"),
        (lambda data: data.update(machine={}), r"is damaged\n.*machine\.cpu: Field required"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_instruction(
    sent: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    wrong = changed(sent["apt"], tmp_path / "wrong.json", change)
    with pytest.raises(ConfigError, match=complaint) as caught:
        ingest([sent["linear"], wrong], tmp_path / "out")
    assert "wrong.json" in str(caught.value)
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


def test_what_is_no_json_or_no_file(sent: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_bytes(sent["apt"].read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"cut\.json cannot be read"):
        ingest([tmp_path / "cut.json"], tmp_path / "out")
    with pytest.raises(ConfigError, match="is not a file"):
        ingest([tmp_path], tmp_path / "out")
    write_json(tmp_path / "out" / "rows.json", measured({"none": noisy(10.0)}))
    with pytest.raises(ConfigError, match="holds rows that were measured here"):
        ingest([sent["apt"]], tmp_path / "out")


def test_failed_proofs_are_refused_or_marked(sent: dict[str, Path], tmp_path: Path) -> None:
    step = {"step": "selftest", "what": "logits are not finite", "gate": True}
    failed = changed(sent["apt"], tmp_path / "failed.json", lambda data: data["failed"].append(step))
    with pytest.raises(GateError, match=r"proofs that failed.*\n.*selftest: logits are not finite"):
        ingest([failed], tmp_path / "out")
    rows, told = ingest([failed], tmp_path / "out", with_failures=True)
    assert rows[0]["warnings"][-1] == "selftest: logits are not finite"
    assert told == [f"{failed}: selftest: logits are not finite"]
    unproved = changed(sent["apt"], tmp_path / "unproved.json", lambda data: data.update(parity=None))
    with pytest.raises(GateError, match="nothing says that the logits are right"):
        ingest([unproved], tmp_path / "out")
    assert len(read_rows(tmp_path / "out" / "rows.json")) == 1


def suite(path: Path, seed: int, **changes: Any) -> Path:
    """A result in the GPU suite's form."""
    gpu = [{"name": "NVIDIA H200", "driver_version": "580"}]
    facts = {"suite": "gpu-vit-small", "session": "pytorch-cuda-graph", "device": "NVIDIA H200", "precision": "float16"}
    times = {"no prompts": noisy(2.0, seed=seed), "APT-100": noisy(2.1, seed=seed + 1)}
    rows = measured(times, baseline="no prompts", environment=ENVIRONMENT | {"gpus": gpu}, **facts)
    data = {
        "schema": SUITE,
        "version": VERSIONS[SUITE],
        "created": "2026-01-01T00:00:00+00:00",
        "rows": rows,
        "parity": [{"size": "vit-small", "contender": "APT-100", "precision": "float16", "prompts": "tuned", **EQUAL}],
        "steps": [],
        "switch": [],
        "failed": [],
    }
    path.write_text(json.dumps(data | changes))
    return path


def test_the_gpu_suite_writes_the_form_that_is_read() -> None:
    from bench.gpu.suite import SCHEMA, VERSION

    assert VERSIONS[SUITE] == VERSION
    assert SUITE == SCHEMA


def test_rows_of_the_gpu_suite_stay_paired(sent: dict[str, Path], tmp_path: Path) -> None:
    first, second = suite(tmp_path / "first.json", 0), suite(tmp_path / "second.json", 10)
    rows, _ = ingest([first, second, sent["linear"]], tmp_path / "out")
    assert [row["suite"] for row in rows] == ["gpu-vit-small"] * 2 + ["gpu-vit-small #2"] * 2 + ["onnxruntime-cpu tiny"]
    assert [row["verdict"] for row in rows] == ["baseline", "slower"] * 2 + ["baseline"]
    assert rows[3]["baseline"] == "no prompts"
    kept = sorted((tmp_path / "out").glob("results-*.json"))
    assert [path.read_bytes() for path in kept] == [p.read_bytes() for p in sorted((first, second), key=sha256)]
    assert [path.stem[8:] for path in kept] == sorted(sha256(path)[:8] for path in (first, second))
    forged = json.loads(first.read_text())["rows"]
    forged[1]["latency_ms_median"] = 1.0
    with pytest.raises(ConfigError, match=r"forged\.json holds rows .*\n.*row 1 \(APT-100\): latency_ms_median is 1"):
        ingest([suite(tmp_path / "forged.json", 20, rows=forged)], tmp_path / "out")
    step = {"step": "parity", "what": "off by 1", "gate": True}
    with pytest.raises(GateError, match="parity: off by 1"):
        ingest([suite(tmp_path / "broken.json", 20, failed=[step])], tmp_path / "out")
    skipped, told = ingest([suite(tmp_path / "late.json", 20, failed=[step | {"gate": False}])], tmp_path / "out")
    assert (len(skipped), len(told), skipped[-1]["warnings"]) == (7, 1, ["parity: off by 1"])


def test_what_the_gpu_suite_measured_beside_latencies_reaches_the_report(tmp_path: Path) -> None:
    ingest([suite(tmp_path / "results.json", 0)], tmp_path / "out")
    (name, text), *others = make_report([tmp_path / "out"]).others
    assert name == "out: PyTorch on NVIDIA H200, beside latencies, 2026-01-01T00:00:00+00:00"
    assert text.startswith("parity\n\n| size ")
    assert "1.0e-06" in text
    assert others == []
    (kept,) = (tmp_path / "out").glob("results-*.json")
    for data, complaint in (
        ([], "is not what a device sends"),
        ({"schema": SUITE, "version": 2}, "another version"),
        ({"schema": SUITE, "version": 1}, "is damaged"),
        (json.loads(kept.read_text()) | {"parity": [{"size": "vit-small"}]}, r"is damaged\n.*KeyError"),
    ):
        write_json(kept, data)
        with pytest.raises(ConfigError, match=complaint):
            make_report([tmp_path / "out"])


def test_engines_become_two_rows(tmp_path: Path, wheel: Path, run_script: Any) -> None:  # noqa: F811
    to_bundle(make_model(tmp_path / "m", "jetson-jp72"), tmp_path / "bundle", wheel)
    fake.install(tmp_path / "bin", "10.16")
    sidecar = json.loads((tmp_path / "bundle" / "model.json").read_text())
    for name in ("build.sh", "selftest.sh", "measure.sh"):
        assert run_script(tmp_path / "bundle", name, bin=tmp_path / "bin").returncode == 0
    rows, _ = ingest([tmp_path / "bundle" / "results.json"], tmp_path / "out")
    assert [row["suite"] for row in rows] == ["jetson-jp72, kernels alone", "jetson-jp72, with transfers"]
    kernels, whole = rows
    assert kernels["session"] == whole["session"] == "tensorrt"
    assert kernels["environment"]["packages"]["tensorrt"].startswith("10.16")
    assert kernels["rounds"] == fake.RUNS
    assert whole["latency_ms_median"] > kernels["latency_ms_median"]
    assert any("unstable" in text for text in kernels["warnings"])
    assert kernels["model_sha256"] == sidecar["onnx_sha256"]
    assert kernels["precision"] == "float16"
    assert (kernels["clock"], whole["clock"]) == ("cuda events", "host")


def test_program(sent: dict[str, Path], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    command = [sys.executable, "-m", "bench.ingest", "--out", out]
    done = subprocess.run([*command, *map(str, sent.values())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not paired" in done.stdout
    again = subprocess.run([*command, str(sent["apt"])], capture_output=True, text=True, check=False)
    assert (again.returncode, "Traceback" in again.stderr, "once more" in again.stderr) == (1, False, True)
