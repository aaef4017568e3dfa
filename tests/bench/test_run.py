"""Suites and rows on really exported models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from apt_edge.backbone.vit import SIZES
from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, GateError
from apt_edge.files import sha256
from apt_edge.methods import METHODS
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.sessions import SESSIONS
from apt_edge.runtime.statistics import paired_ratio
from bench.build import build, random_clips, random_model
from bench.report import render
from bench.run import check_gmacs, run_suite
from bench.suite import Contender, RandomModel, SessionName, StepSuite, Suite
from tests.bench.conftest import TOKENS
from tests.conftest import TINY, TINY_CLIP

ENVIRONMENT = {"cpu", "cores", "threads", "governor", "load_average", "system", "python", "packages", "gpus"}


def suite(exported: Path, clips: Path, **changes: Any) -> Suite:
    contenders = [Contender(name=name, model=str(exported / name)) for name in ("linear", "apt", "vpt-tokens")]
    values = {"name": "tiny", "baseline": "linear", "rounds": 10, "warmup": 1, "threads": 1, "contenders": contenders}
    return Suite(**values | {"clips": str(clips)} | changes)


def test_rows_of_real_models_on_real_clips(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text('{"accuracy": 0.5}')
    contenders = [
        Contender(name="none", model=str(exported / "linear"), evaluation=str(evaluation)),
        Contender(name="half", model=str(exported / "apt-half")),
    ]
    rows = run_suite(suite(exported, clip_list, contenders=contenders, baseline="none"), tmp_path / "out")
    assert rows == json.loads((tmp_path / "out" / "rows.json").read_text())
    none, half = rows
    assert [row["contender"] for row in rows] == ["none", "half"]
    assert (none["precision"], half["precision"]) == ("float32", "float16")
    assert none["onnx_sha256"] == sha256(exported / "linear" / "model.onnx")
    assert none["latency_ratio"] == none["latency_ratio_low"] == none["latency_ratio_high"] == none["gmacs_ratio"] == 1
    assert (none["verdict"], none["accuracy"], half["accuracy"]) == ("baseline", 0.5, None)
    assert half["latency_ratio"] == pytest.approx(paired_ratio(half["times_ms"], none["times_ms"]).median, rel=1e-3)
    assert half["gmacs_ratio"] > 1
    assert len(half["times_ms"]) == half["rounds"] == 10
    assert half["trainable_parameters"] == 77
    assert set(half["environment"]) >= ENVIRONMENT


def test_the_gmacs_gate(exported: Path, clip_list: Path) -> None:
    ratio = {"latency_ratio": 1.2, "latency_ratio_low": 1.19, "latency_ratio_high": 1.21}
    rows = [{"contender": "apt", "gmacs_ratio": 1.1, **ratio}]
    check_gmacs(suite(exported, clip_list, gmacs_tolerance=0.1), rows)
    check_gmacs(suite(exported, clip_list), rows)
    with pytest.raises(GateError, match=r"within 5%\n.*apt: latency ratio 1\.200 \[1\.190, 1\.210\]"):
        check_gmacs(suite(exported, clip_list, gmacs_tolerance=0.05), rows)


def test_different_clips_are_not_compared(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    facts = json.loads((exported / "apt" / "model.json").read_text())
    facts["clip"]["stride"] = 7
    (tmp_path / "other" / "model.json").write_text(json.dumps(facts))
    (tmp_path / "other" / "model.onnx").symlink_to(exported / "apt" / "model.onnx")
    contenders = [Contender(name=p.name, model=str(p)) for p in (exported / "linear", tmp_path / "other")]
    with pytest.raises(ConfigError, match="take different clips"):
        run_suite(suite(exported, clip_list, contenders=contenders), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_accuracy_is_named(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    contenders = [
        Contender(name="linear", model=str(exported / "linear"), evaluation=str(tmp_path / "evaluation.json")),
        Contender(name="apt", model=str(exported / "apt")),
    ]
    with pytest.raises(ConfigError, match="holds no accuracy"):
        run_suite(suite(exported, clip_list, contenders=contenders), tmp_path / "out")


def test_random_models_are_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    request = RandomModel(size="tiny", method="vpt-deep", settings={"tokens": 3}, as_tokens=True, classes=7)
    path = build(request, "onnxruntime-cpu", tmp_path)
    older = tmp_path / f"{path.name[:-12]}{'0' * 12}"
    written = (path / "model.onnx").stat().st_mtime_ns
    assert build(request, "onnxruntime-cpu", tmp_path) == path
    assert (path / "model.onnx").stat().st_mtime_ns == written
    path.rename(older)  # as if the sources had changed since
    assert build(request, "onnxruntime-cpu", tmp_path) == path
    assert not older.exists()
    facts = json.loads((path / "model.json").read_text())
    assert facts["trainable_parameters"] == 2 * 3 * 64 + 7 * 64 + 7 + 2 * 64
    assert facts["prompts"] == []


@pytest.mark.parametrize("name", list(METHODS))
def test_random_models_of_every_method_are_what_was_trained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    settings = {"tokens": TOKENS} if name in ("apt", "vpt-shallow", "vpt-deep") else {}
    module, tuned = random_model(RandomModel(size="tiny", method=name, settings=settings, classes=7))
    clip = torch.randn(1, *TINY_CLIP.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tuned.eval()(clip)
        assert expected.abs().max() > 1e-2
        torch.testing.assert_close(module(clip), expected, atol=1e-5, rtol=0)


def test_plain_and_own_exports_in_every_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    own = {"size": "tiny", "method": "apt", "settings": {"tokens": TOKENS}, "classes": 7}
    contenders = [
        Contender(name="plain", random=RandomModel(**own, export="plain")),
        *(Contender(name=session, session=session, random=RandomModel(**own)) for session in get_args(SessionName)),
    ]
    values = {"name": "tiny", "baseline": "plain", "rounds": 10, "warmup": 1, "threads": 1, "clip_count": 2}
    rows = run_suite(Suite(**values, contenders=contenders), tmp_path / "out", tmp_path)
    assert [row["session"] for row in rows] == ["onnxruntime-cpu", *get_args(SessionName)]
    hashes = [row["onnx_sha256"] for row in rows]
    assert len(set(hashes)) == 3  # plain, ONNX Runtime's own, OpenVINO's own
    assert hashes[2] == hashes[3]
    clips = random_clips(TINY_CLIP, 2)
    logits = []
    for contender in contenders:
        model = ModelDir.load(build(contender.random, contender.session, tmp_path))
        session = SESSIONS[contender.session](model.onnx, 1)
        logits.append(np.concatenate([session.run(model.feeds(session.inputs, frames))["logits"] for frames in clips]))
    plain, *others = logits
    for found, tolerance in zip(others, (1e-5, 1e-5, 3e-2), strict=True):
        np.testing.assert_allclose(found, plain, rtol=0, atol=tolerance)
    assert np.abs(plain[0] - plain[1]).max() > 1e-2  # clips differ, so a session that reads them wrongly would show
    page = render(rows)
    for text in ("openvino-bfloat16", "8 significant bits"):
        assert text in page


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("rounds = 11", "multiple of 2"),
        ("rounds = 8", "greater than or equal to 10"),
        ('baseline = "none"', "not a contender"),
        ("round = 20", "did you mean rounds"),
        ("threads = 0", "greater than or equal to 1"),
    ],
)
def test_mistakes_in_a_suite_are_named(tmp_path: Path, change: str, complaint: str) -> None:
    values = {"name": '"x"', "baseline": '"a"', "rounds": "10", "warmup": "1", "threads": "1"}
    key, _, value = change.partition(" = ")
    text = "\n".join(f"{k} = {v}" for k, v in (values | {key: value}).items())
    for name in "ab":
        text += f'\n[[contenders]]\nname = "{name}"\nrandom = {{ size = "nano", method = "linear" }}'
    (tmp_path / "suite.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_toml(tmp_path / "suite.toml", Suite)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"name": "a"}, "exactly one of"),
        (
            {"name": "a", "model": "x", "random": {"size": "nano", "method": "linear"}},
            "exactly one of",
        ),
        ({"name": "a", "random": {"size": "nano", "method": "aptt"}}, "must be one of apt, "),
        ({"name": "a", "random": {"size": "nano", "method": "apt", "settings": {"token": 1}}}, "did you mean tokens"),
        ({"name": "a", "random": {"size": "nano", "method": "linear", "as_tokens": True}}, "never tokens"),
        ({"name": "a", "model": "x", "session": "openvino"}, "openvino-bfloat16"),
    ],
)
def test_a_contender_has_one_consistent_source(values: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Contender.model_validate(values)


@pytest.mark.parametrize("path", sorted(Path("bench/suites").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_say_how_to_run_them(path: Path) -> None:
    steps = path.stem.startswith("steps-")
    assert load_toml(path, StepSuite if steps else Suite).name == path.stem
    assert f"python -m bench.{'steps' if steps else 'run'} {path.as_posix()}" in path.read_text()


def test_program(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    contenders = "".join(f'[[contenders]]\nname = "{n}"\nmodel = "{exported / n}"\n' for n in ("linear", "apt"))
    head = f'name = "tiny"\nbaseline = "linear"\nrounds = 100\nwarmup = 1\nthreads = 1\nclips = "{clip_list}"\n'
    (tmp_path / "tiny.toml").write_text(head + contenders)
    command = [sys.executable, "-m", "bench.run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--set", "rounds=10"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| contender |")
    assert len(json.loads((tmp_path / "out" / "rows.json").read_text())[0]["times_ms"]) == 10
    page = [sys.executable, "-m", "bench.report", str(tmp_path / "out")]
    assert subprocess.run(page, capture_output=True, text=True, check=True).stdout.startswith("| contender |")
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()
    missing = subprocess.run([*command, "--set", "clips=absent.csv"], capture_output=True, text=True)
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    assert "absent.csv does not exist" in missing.stderr
