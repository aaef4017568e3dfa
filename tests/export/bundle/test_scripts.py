"""Every script for real: in ONNX Runtime and OpenVINO, and with a trtexec of each version that knows its own flags."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apt_edge.backbone.folded import folded_model
from apt_edge.runtime.bundle import load_bundle
from export.model import Export
from export.target import load_target
from export.to_bundle import to_bundle
from tests.conftest import TINY_CLIP, tiny_pack
from tests.export.bundle.models import TARGETS, make_model
from tests.export.trtexec import fake

PAGES = sorted(path.stem for path in TARGETS.glob("*.toml") if path.stem != "tensorrt-rtx")
ENGINES = {
    "jetson-jp5": "8.5",
    "jetson-jp6-orin": "10.3",
    "jetson-jp7-thor": "10.13",
    "jetson-jp72": "10.16",
    "datacenter": "11.4",
}
SESSIONS = {"onnxruntime-cpu": "onnxruntime", "openvino-cpu": "openvino"}


def engine_bundle(tmp_path, wheel, page, bound=False, behaviour="", overrides=None):
    to_bundle(make_model(tmp_path / "m", page, bound, overrides), tmp_path / "bundle", wheel)
    fake.install(tmp_path / "bin", ENGINES[page], behaviour)
    return tmp_path / "bundle"


@pytest.mark.parametrize("page", PAGES)
def test_shellcheck_finds_nothing(tmp_path, wheel, page):
    packed = to_bundle(make_model(tmp_path / "m", page), tmp_path / "out", wheel)
    scripts = [str(tmp_path / "out" / name) for name in packed["files"] if name.endswith(".sh")]
    assert len(scripts) == (3 if page in ENGINES else 2)
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not re.search(r"@[A-Z]+@", "".join(Path(path).read_text() for path in scripts))


@pytest.mark.parametrize("page", SESSIONS)
@pytest.mark.parametrize("bound", [False, True])
def test_a_session_bundle_end_to_end(tmp_path, wheel, run_script, page, bound):
    to_bundle(make_model(tmp_path / "m", page, bound), tmp_path / "bundle", wheel)
    allowed = (SESSIONS[page], *(["safetensors"] if bound else []))
    done = run_script(tmp_path / "bundle", "selftest.sh", allowed=allowed)
    assert (done.returncode, done.stdout[:17]) == (0, "self-test passed "), done.stderr
    done = run_script(tmp_path / "bundle", "measure.sh", "--seconds", "0.01", "--threads", "1", allowed=allowed)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bundle" / "results.json").read_text())
    assert (results["schema"], results["version"], results["failed"]) == ("apt-edge results", 1, [])
    assert results["parity"]["passed"]
    assert results["parity"]["max_abs"] <= 1e-4
    row = results["times"]["inference"]
    assert row["n"] == len(row["times_ms"]) >= 10
    assert row["session"]["threads"] == 1
    assert 0 < row["memory"]["rss_mb"] < 100
    assert {"energy", "memory"} <= {*row}
    assert results["machine"]["packages"]["numpy"] == np.__version__
    assert results["model"]["onnx_sha256"] == json.loads((tmp_path / "m" / "model.json").read_text())["onnx_sha256"]


def test_a_missing_runtime_is_named(tmp_path, wheel, run_script):
    to_bundle(make_model(tmp_path / "m", "onnxruntime-cpu"), tmp_path / "bundle", wheel)
    done = run_script(tmp_path / "bundle", "selftest.sh")
    assert (done.returncode, "onnxruntime is not installed" in done.stderr) == (1, True)


@pytest.mark.parametrize(("page", "version"), ENGINES.items())
def test_an_engine_bundle_end_to_end(tmp_path, wheel, run_script, page, version):
    bundle = engine_bundle(tmp_path, wheel, page, bound=version == "10.16")
    options = {"bin": tmp_path / "bin", "allowed": ("safetensors",) if version == "10.16" else ()}
    for name in ("build.sh", "selftest.sh", "measure.sh"):
        done = run_script(bundle, name, **options)
        assert done.returncode == 0, f"{name}\n{done.stderr}\n{done.stdout}"
    assert load_bundle(bundle).trusted_engine() == bundle / "model.engine"
    results = json.loads((bundle / "results.json").read_text())
    assert results["failed"] == []
    assert results["machine"]["tensorrt"].startswith(f"{version}.")
    assert results["model"]["engine_sha256"]
    assert results["parity"]["top1_agreement"] == 1
    assert results["layers"]["attention"] == 1
    assert results["layers"]["fused_attention"] == (1 if version not in ("8.5", "10.3") else 0)
    compute, whole = results["times"]["compute"], results["times"]["with_transfers"]
    assert compute["n"] == len(compute["times_ms"]) == fake.RUNS
    assert compute["throughput"] > 0
    assert whole["median"] > compute["median"]
    assert whole["memory"] == compute["memory"] == {"rss_mb": None, "activation_mb": 5.89824, "gpu_mb": None}
    assert compute["energy"] is None
    assert any("unstable" in warning for warning in compute["warnings"])


@pytest.mark.parametrize("page", ["jetson-jp5", "jetson-jp6-orin"])
def test_a_real_export_end_to_end(tiny_vit, tmp_path, wheel, run_script, page):
    frames = np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3), np.uint8)
    coarse = load_target(TARGETS / f"{page}.toml", ["tolerance.max_abs=0.05", "tolerance.top1_agreement=0.5"])
    pack = tiny_pack(tiny_vit, tokens=8)
    export = Export(folded_model(pack, tiny_vit), frames=frames, clip=TINY_CLIP, labels=pack.labels, facts={})
    export.to(coarse, tmp_path / "m")
    to_bundle(tmp_path / "m", tmp_path / "bundle", wheel)
    fake.install(tmp_path / "bin", ENGINES[page])
    for name in ("build.sh", "selftest.sh", "measure.sh"):
        done = run_script(tmp_path / "bundle", name, bin=tmp_path / "bin")
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bundle" / "results.json").read_text())["layers"]["attention"] == 2


def test_a_bundle_with_a_batch(tmp_path, wheel, run_script):
    bundle = engine_bundle(tmp_path, wheel, "jetson-jp72", overrides=["batch.opt=2", "batch.max=4"])
    for name in ("build.sh", "selftest.sh", "measure.sh"):
        done = run_script(bundle, name, bin=tmp_path / "bin")
        assert done.returncode == 0, done.stderr
    assert json.loads((bundle / "results.json").read_text())["times"]["compute"]["batch"] == 2


def test_tensorrt_8_is_told_what_stays_float32(tmp_path, wheel):
    model = make_model(tmp_path / "m", "jetson-jp5")
    to_bundle(model, tmp_path / "bundle", wheel)
    text = (tmp_path / "bundle" / "build.sh").read_text()
    assert "--layerPrecisions=norm/squares:fp32,softmax:fp32" in text


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "labels.txt", "wheel", "gone"])
def test_a_changed_file_is_refused(tmp_path, wheel, run_script, name):
    to_bundle(make_model(tmp_path / "m", "onnxruntime-cpu"), tmp_path / "bundle", wheel)
    path = tmp_path / "bundle" / {"wheel": wheel.name, "gone": "golden.npz"}.get(name, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if name == "gone":
        path.unlink()
    for script in ("selftest.sh", "measure.sh"):
        done = run_script(tmp_path / "bundle", script, allowed=("onnxruntime",))
        assert done.returncode == 1
        assert path.name in done.stderr
        assert "copy the bundle again" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "bundle" / "results.json").exists()


def test_another_tensorrt_is_refused(tmp_path, wheel, run_script):
    bundle = engine_bundle(tmp_path, wheel, "jetson-jp6-orin")
    fake.install(tmp_path / "bin", "10.13")
    done = run_script(bundle, "build.sh", bin=tmp_path / "bin")
    assert done.returncode == 1
    assert "for TensorRT 10.3" in done.stderr
    assert "v101303" in done.stderr
    (tmp_path / "bin" / "trtexec").unlink()
    done = run_script(bundle, "build.sh", bin=tmp_path / "bin")
    assert (done.returncode, "neither on PATH nor at" in done.stderr) == (1, True)
    done = run_script(bundle, "build.sh", PYTHON="/bin/false")
    assert (done.returncode, "not Python 3.10 or newer" in done.stderr) == (1, True)


@pytest.mark.parametrize("behaviour", ["float32", "unfused"])
def test_an_engine_that_is_not_what_was_asked_for_is_not_kept(tmp_path, wheel, run_script, behaviour):
    bundle = engine_bundle(tmp_path, wheel, "jetson-jp72", behaviour=behaviour)
    (bundle / "model.engine").write_bytes(b"the one before")
    done = run_script(bundle, "build.sh", bin=tmp_path / "bin")
    assert done.returncode == 4, done.stderr
    assert {"float32": "computes in float32", "unfused": "0 of 1 attentions"}[behaviour] in done.stderr
    assert (bundle / "model.engine").read_bytes() == b"the one before"
    assert not (bundle / "engine.log").exists()
    assert not list(bundle.glob("*.part"))


def test_a_build_that_fails_shows_why(tmp_path, wheel, run_script):
    bundle = engine_bundle(tmp_path, wheel, "datacenter")
    text = (bundle / "build.sh").read_text().replace("--skipInference", "--fp16")
    (bundle / "build.sh").write_text(text)
    sums = subprocess.run(["sha256sum", "build.sh"], cwd=bundle, capture_output=True, text=True, check=True).stdout
    kept = [line for line in (bundle / "SHA256SUMS").read_text().splitlines() if not line.endswith("build.sh")]
    (bundle / "SHA256SUMS").write_text("\n".join([*kept, sums]))
    done = run_script(bundle, "build.sh", bin=tmp_path / "bin")
    assert done.returncode == 1
    assert "Unknown option: --fp16" in done.stderr
    assert "build.log" in done.stderr
    assert not (bundle / "model.engine").exists()


def test_a_memory_limit_reaches_trtexec(tmp_path, wheel, run_script):
    bundle = engine_bundle(tmp_path, wheel, "jetson-jp6-orin")
    assert run_script(bundle, "build.sh", bin=tmp_path / "bin", WORKSPACE="512").returncode == 0
    assert "--memPoolSize=workspace:512" in (bundle / "build.log").read_text()


def test_a_failed_selftest_is_exit_code_4_and_stands_in_the_results(tmp_path, wheel, run_script):
    bundle = engine_bundle(tmp_path, wheel, "jetson-jp72", behaviour="nan")
    assert run_script(bundle, "build.sh", bin=tmp_path / "bin").returncode == 0
    done = run_script(bundle, "selftest.sh", bin=tmp_path / "bin")
    assert (done.returncode, "logits are not finite" in done.stderr) == (4, True)
    done = run_script(bundle, "measure.sh", bin=tmp_path / "bin")
    assert done.returncode == 4
    results = json.loads((bundle / "results.json").read_text())
    assert results["parity"]["max_abs"] is None
    assert results["failed"] == [{"step": "selftest", "what": "logits are not finite", "gate": True}]


def test_a_selftest_of_another_engine_does_not_count(tmp_path, wheel, run_script):
    bundle = engine_bundle(tmp_path, wheel, "jetson-jp72")
    for name in ("build.sh", "selftest.sh"):
        assert run_script(bundle, name, bin=tmp_path / "bin").returncode == 0
    shutil.copy(bundle / "model.engine", tmp_path / "engine")
    (bundle / "model.engine").write_bytes((tmp_path / "engine").read_bytes() + b"\n")
    (bundle / "layers.json").unlink()
    done = run_script(bundle, "measure.sh", bin=tmp_path / "bin")
    assert done.returncode == 1
    failed = {entry["step"]: entry["what"] for entry in json.loads((bundle / "results.json").read_text())["failed"]}
    assert failed["selftest"] == "not run with this graph and engine"
    assert "layers.json is missing" in failed["layers"]
    for name in ("selftest.sh", "measure.sh"):
        (bundle / "model.engine").unlink(missing_ok=True)
        done = run_script(bundle, name, bin=tmp_path / "bin")
        assert (done.returncode, "run ./build.sh first" in done.stderr) == (1, True)
