"""Rows of really exported and really run models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError, GateError, ModelError
from apt_edge.files import sha256
from apt_edge.runtime.machine import machine
from apt_edge.runtime.statistics import paired_ratio
from bench.gates import check_gates
from bench.modules import random_model
from bench.numbers import drifted
from bench.rows import check_rows
from bench.run import run_suite
from bench.suite import Contender, RandomModel, Suite
from tests.conftest import TINY

NANO = RandomModel(size="nano", method="linear")


def suite(exported: Path, clips: Path, **changes: Any) -> Suite:
    contenders = [Contender(name=name, model=str(exported / name)) for name in ("linear", "apt", "vpt-tokens")]
    values = {"name": "tiny", "baseline": "linear", "rounds": 10, "warmup": 1, "threads": 1, "contenders": contenders}
    values = values | {"clips": str(clips)} | changes
    return Suite(**{key: value for key, value in values.items() if value is not None})


def test_rows_of_real_models_on_real_clips(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text('{"accuracy": 0.5}')
    contenders = [
        Contender(name="none", model=str(exported / "linear"), evaluation=str(evaluation)),
        Contender(name="half", model=str(exported / "apt-half")),
    ]
    rows = run_suite(suite(exported, clip_list, contenders=contenders, baseline="none"), tmp_path / "out", tmp_path)
    assert rows == json.loads((tmp_path / "out" / "rows.json").read_text())
    check_rows(rows, "these rows")
    none, half = rows
    assert [row["contender"] for row in rows] == ["none", "half"]
    assert (none["precision"], half["precision"]) == ("float32", "float16")
    assert none["model_sha256"] == sha256(exported / "linear" / "model.onnx")
    assert none["pack_sha256"] == "linear"  # as the fixture's sidecar has it
    assert none["latency_ratio"] == none["latency_ratio_low"] == none["latency_ratio_high"] == none["gmacs_ratio"] == 1
    assert (none["verdict"], none["accuracy"], half["accuracy"]) == ("baseline", 0.5, None)
    ratio = paired_ratio(np.array(half["times_ms"]), np.array(none["times_ms"]))
    assert half["latency_ratio"] == pytest.approx(ratio.median, rel=1e-3)
    assert half["gmacs_ratio"] > 1
    assert len(half["times_ms"]) == half["rounds"] == 10
    assert (half["trainable_parameters"], half["agreement"], half["stages"], half["point"]) == (77, None, None, None)
    assert half["clips"] == str(clip_list)
    assert half["memory"]["rss_mb"] > 0
    assert half["environment"]["threads"] == 1
    assert (half["clock"], half["built"]) == ("host", "apt-edge")
    assert half["warnings"] == drifted(np.array(half["times_ms"])) == []  # ten times tell no trend


@pytest.mark.slow
def test_every_session_that_runs_here(tmp_path: Path) -> None:
    plain = NANO.model_copy(update={"export": "plain"})
    contenders = [
        Contender(name="Hugging Face", session="pytorch-eager", random=NANO.model_copy(update={"huggingface": True})),
        Contender(name="eager", session="pytorch-eager", random=NANO),
        Contender(name="plain", random=plain),
        Contender(name="ours", random=NANO),
        Contender(name="OpenVINO", session="openvino-float32", random=NANO),
        Contender(name="bfloat16", session="openvino-bfloat16", random=NANO),
    ]
    values = {"name": "nano", "baseline": "Hugging Face", "rounds": 10, "warmup": 1, "threads": 1, "clip_count": 2}
    rows = run_suite(Suite(**values, contenders=contenders), tmp_path / "out", tmp_path)
    named = {row["contender"]: row for row in rows}
    assert {row["clips"] for row in rows} == {"synthetic videos of train.clips, seed 0"}
    assert len(list((tmp_path / "clips-0" / "val").glob("*.mp4"))) == 16
    for name in ("Hugging Face", "eager", "plain", "ours", "OpenVINO"):
        assert named[name]["agreement"]["against"] == "Hugging Face"
        assert named[name]["agreement"]["max_abs"] <= 1e-4
        assert named[name]["agreement"]["top1_agreement"] == 1
    assert 1e-4 < named["bfloat16"]["agreement"]["max_abs"] < 3e-2
    assert named["bfloat16"]["precision"] == "bfloat16"
    assert [row["built"] for row in rows[:4]] == ["Hugging Face", "apt-edge", "torch.onnx.export", "apt-edge"]
    assert {row["trainable_parameters"] for row in rows} == {random_model(NANO)[1].trainable_parameters()}
    # Ours saves products that the module, and what is exported of it plainly, computes; Hugging Face's are the same.
    eager, ours = named["eager"]["gmacs"], named["ours"]["gmacs"]
    assert named["Hugging Face"]["gmacs"] == eager == pytest.approx(named["plain"]["gmacs"], rel=1e-3)
    assert ours < eager
    assert len({named[name]["model_sha256"] for name in ("Hugging Face", "eager", "plain", "ours", "OpenVINO")}) == 5


def test_the_same_weights_are_compared_where_the_baseline_has_others(
    exported: Path, clip_list: Path, tmp_path: Path
) -> None:
    names = {"linear": "onnxruntime-cpu", "apt": "onnxruntime-cpu", "apt-decomposed": "openvino-float32"}
    contenders = [Contender(name=n, session=s, model=str(exported / n)) for n, s in names.items()]
    rows = run_suite(suite(exported, clip_list, contenders=contenders), tmp_path / "out", tmp_path)
    linear, apt, other = (row["agreement"] for row in rows)
    assert linear is None
    assert (apt["against"], apt["max_abs"], other["against"]) == ("apt", 0, "apt")
    assert 0 < other["max_abs"] <= 1e-4


def test_latency_and_gmacs_of_methods_that_do_not_fold(
    clip_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    models = {name: {"size": "tiny", "method": name} for name in ("linear", "vpt-shallow", "adaptformer", "lora")}
    models["vpt-shallow"]["settings"] = {"tokens": 3}
    contenders = [{"name": name, "random": model} for name, model in models.items()]
    values = {"name": "tiny", "baseline": "linear", "rounds": 10, "warmup": 1, "threads": 1, "clips": str(clip_list)}
    rows = run_suite(Suite.model_validate(values | {"contenders": contenders}), tmp_path / "out", tmp_path)
    none, shallow, adapter, lora = rows
    assert [row["method"] for row in rows] == list(models)
    assert [row["tokens"] for row in rows] == [0, 3, 0, 0]
    assert shallow["gmacs"] > none["gmacs"]
    assert adapter["gmacs"] > none["gmacs"]
    assert lora["gmacs"] == none["gmacs"]  # merged
    assert min(row["trainable_parameters"] for row in rows[1:]) > none["trainable_parameters"]


def test_the_gates(exported: Path, clip_list: Path) -> None:
    ratio = {"latency_ratio": 1.2, "latency_ratio_low": 1.19, "latency_ratio_high": 1.21}
    rows = [{"contender": "apt", "gmacs_ratio": 1.1, "agreement": {"max_abs": 2e-4, "against": "none"}, **ratio}]
    check_gates(suite(exported, clip_list, gmacs_tolerance=0.1, logit_tolerance=1e-3), rows)
    check_gates(suite(exported, clip_list), rows)
    with pytest.raises(GateError, match=r"within 5%\n.*apt: latency ratio 1\.200 \[1\.190, 1\.210\]"):
        check_gates(suite(exported, clip_list, gmacs_tolerance=0.05), rows)
    with pytest.raises(GateError, match=r"more than 0\.0001\n.*apt: 0\.0002 from none"):
        check_gates(suite(exported, clip_list, logit_tolerance=1e-4), rows)
    wide = [rows[0] | {"latency_ratio_low": 1.1, "latency_ratio_high": 1.3, "gmacs_ratio": 1.2}]
    with pytest.raises(GateError, match=r"(?s)^cannot tell .* within 5%\n.*apt: .*\[1\.100, 1\.300\].*, cannot tell"):
        check_gates(suite(exported, clip_list, gmacs_tolerance=0.05), wide)
    with pytest.raises(GateError, match=r"(?s)^latency does not follow .*1\.100; .*cannot tell: its interval"):
        check_gates(suite(exported, clip_list, gmacs_tolerance=0.05), wide + rows)
    check_gates(suite(exported, clip_list, gmacs_tolerance=0.09), wide)
    alone = [rows[0] | {"latency_ratio_low": None, "latency_ratio_high": None}]
    with pytest.raises(GateError, match="cannot tell"):
        check_gates(suite(exported, clip_list, gmacs_tolerance=0.5), alone)
    infinite = [rows[0] | {"agreement": {"max_abs": None, "against": "none"}}]
    with pytest.raises(GateError, match="apt: None from none"):
        check_gates(suite(exported, clip_list, logit_tolerance=1e-3), infinite)


def test_rows_that_nobody_would_read_are_not_written(
    exported: Path, clip_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {**machine(1), "cpu": None, "board": None, "gpus": []}
    monkeypatch.setattr("bench.run.machine", lambda threads: nowhere)
    with pytest.raises(ConfigError, match="names neither a cpu nor a board nor a gpu"):
        run_suite(suite(exported, clip_list), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_different_clips_are_not_compared(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    facts = json.loads((exported / "apt" / "model.json").read_text())
    facts["clip"]["stride"] = 7
    (tmp_path / "other" / "model.json").write_text(json.dumps(facts))
    (tmp_path / "other" / "model.onnx").symlink_to(exported / "apt" / "model.onnx")
    contenders = [Contender(name=p.name, model=str(p)) for p in (exported / "linear", tmp_path / "other")]
    with pytest.raises(ConfigError, match="take different clips"):
        run_suite(suite(exported, clip_list, contenders=contenders), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_accuracy_is_named(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    contenders = [
        Contender(name="linear", model=str(exported / "linear"), evaluation=str(tmp_path / "evaluation.json")),
        Contender(name="apt", model=str(exported / "apt")),
    ]
    with pytest.raises(ConfigError, match="holds no accuracy"):
        run_suite(suite(exported, clip_list, contenders=contenders), tmp_path / "out", tmp_path)


def test_a_static_graph_takes_no_batch(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    offline = suite(exported, clip_list, mode="offline", batches=[1, 2])
    with pytest.raises(ModelError, match=r"takes 1 clip\(s\) a run, not 2"):
        run_suite(offline, tmp_path / "out", tmp_path)


def test_program(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    contenders = "".join(f'[[contenders]]\nname = "{n}"\nmodel = "{exported / n}"\n' for n in ("linear", "apt"))
    head = f'name = "tiny"\nbaseline = "linear"\nrounds = 100\nwarmup = 1\nthreads = 1\nclips = "{clip_list}"\n'
    (tmp_path / "tiny.toml").write_text(head + contenders)
    command = [sys.executable, "-m", "bench.run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--set", "rounds=10"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| contender |")
    assert len(json.loads((tmp_path / "out" / "rows.json").read_text())[0]["times_ms"]) == 10
    missing = subprocess.run([*command, "--set", "clips=absent.csv"], capture_output=True, text=True)
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    assert "absent.csv does not exist" in missing.stderr
