"""What a suite may say, and the suites that are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, ModelError
from apt_edge.runtime.model_dir import ModelDir
from bench.contenders import _graph_session
from bench.suite import Contender, Point, RandomModel, StepSuite, Suite
from tests.export.bundle.models import make_model

LINEAR = {"size": "nano", "method": "linear"}


def values(**changes: Any) -> dict[str, Any]:
    contenders = [{"name": name, "random": LINEAR} for name in "ab"]
    base = {"name": "x", "baseline": "a", "rounds": 10, "warmup": 1, "threads": 1, "contenders": contenders}
    return {key: value for key, value in (base | changes).items() if value is not None}


def sweep(axis: str, numbers: list[int], **model: Any) -> dict[str, Any]:
    return {"axis": axis, "values": numbers, "series": "s", "random": LINEAR | model}


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
    settings = {"name": '"x"', "baseline": '"a"', "rounds": "10", "warmup": "1", "threads": "1"}
    key, _, value = change.partition(" = ")
    text = "\n".join(f"{k} = {v}" for k, v in (settings | {key: value}).items())
    for name in "ab":
        text += f'\n[[contenders]]\nname = "{name}"\nrandom = {{ size = "nano", method = "linear" }}'
    (tmp_path / "suite.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_toml(tmp_path / "suite.toml", Suite)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rounds": None}, "rounds are for single-stream and offline"),
        ({"mode": "mlperf"}, "mlperf runs for `seconds`"),
        ({"batches": [1, 2]}, "batches is for the mode offline"),
        ({"seconds": 3.0}, "seconds is for the mode mlperf"),
        ({"mode": "offline", "stages": True}, "stages is for the mode single-stream"),
        ({"mode": "offline", "batches": [2, 2]}, "stands twice"),
        ({"contenders": [{"name": "a", "random": LINEAR}]}, "two contenders at least"),
        ({"contenders": [{"name": "a", "random": LINEAR}] * 2}, "same name"),
        ({"sweeps": [sweep("tokens", [0, 8])]}, "s 8: .*linear has no setting tokens"),
        ({"sweeps": [sweep("frames", [0, 8])]}, "s 0: frames: .*greater than or equal to 1"),
        ({"sweeps": [sweep("batch", [1, 2])]}, "'tokens', 'frames' or 'size'"),
    ],
)
def test_a_suite_fits_its_mode(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Suite.model_validate(values(**changes))


def test_sweeps_become_contenders() -> None:
    prompts = {"axis": "tokens", "values": [0, 8], "series": "VPT", "session": "openvino-float32"}
    prompts["random"] = {"size": "nano", "method": "vpt-deep", "settings": {"start": 1}, "as_tokens": True}
    suite = Suite.model_validate(values(sweeps=[prompts, sweep("size", [32, 64]), sweep("frames", [8, 4])]))
    none, eight, small, large, long, short = suite.entries[2:]
    assert [c.name for c in suite.entries[2:]] == ["VPT 0", "VPT 8", "s 32", "s 64", "s 8", "s 4"]
    assert none.random == RandomModel(**LINEAR)  # no prompts: the method linear
    settings = {"start": 1, "tokens": 8}
    assert eight.random == RandomModel(size="nano", method="vpt-deep", settings=settings, as_tokens=True)
    assert (eight.session, eight.point) == ("openvino-float32", Point(axis="tokens", value=8, series="VPT"))
    assert [c.random.pixels for c in (small, large)] == [32, 64]
    assert [c.random.frames for c in (long, short)] == [8, 4]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({}, "exactly one of"),
        ({"model": "x", "random": LINEAR}, "exactly one of"),
        ({"random": LINEAR | {"method": "aptt"}}, "must be one of apt, "),
        ({"random": {"size": "nano", "method": "apt", "settings": {"token": 1}}}, "did you mean tokens"),
        ({"random": LINEAR | {"as_tokens": True}}, "never tokens"),
        ({"model": "x", "session": "openvino"}, "openvino-bfloat16"),
        ({"model": "x", "session": "pytorch-eager"}, "runs no exported graph"),
        ({"random": LINEAR, "session": "tensorrt"}, "runs engines: give model"),
        ({"session": "pytorch-eager", "random": LINEAR | {"export": "plain"}}, "runs the module itself"),
        ({"random": LINEAR | {"huggingface": True}}, "exported by PyTorch alone"),
        ({"random": {"size": "nano", "method": "full", "huggingface": True}}, "huggingface is for linear"),
    ],
)
def test_a_contender_has_one_consistent_source(entry: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Contender.model_validate({"name": "a"} | entry)


@pytest.mark.parametrize("path", sorted(Path("bench/suites").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_say_how_to_run_them(path: Path) -> None:
    steps = path.stem.startswith("steps-")
    assert load_toml(path, StepSuite if steps else Suite).name == path.stem
    assert f"python -m bench.{'steps' if steps else 'run'} {path.as_posix()}" in path.read_text()


def test_who_built_what_runs_is_known_whatever_its_name() -> None:
    def built(session: str = "onnxruntime-cpu", **random: Any) -> str:
        return Contender(name="plain", session=session, random=RandomModel(**LINEAR, **random)).built

    assert built() == built("pytorch-eager") == "apt-edge"
    assert built(export="plain") == "torch.onnx.export"
    assert built("pytorch-eager", huggingface=True) == "Hugging Face"
    assert built(huggingface=True, export="plain") == "Hugging Face, torch.onnx.export"
    assert Contender(name="x", model="runs/x").built == Contender(name="x", unfolded="runs/x").built == "apt-edge"


def test_an_engine_is_opened_by_its_own_runtime(tmp_path: Path) -> None:
    model = ModelDir.load(make_model(tmp_path / "m", "tensorrt-rtx"))
    with pytest.raises(ModelError, match=r"has no model\.engine"):
        _graph_session("tensorrt-rtx", model, 1)
    model.engine.write_bytes(b"of somebody else")
    with pytest.raises(ModelError, match="is not trusted"):
        _graph_session("tensorrt-rtx", model, 1)
