"""`export.to_bundle --triton --deepstream`: what the command writes and says."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from apt_edge.errors import ConfigError
from export import to_bundle as tool
from tests.export.bundle.models import make_model
from tests.export.serving.conftest import CLIPS


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run the command; what it printed."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["export.to_bundle", *map(str, arguments)])
        tool.main()
        return capsys.readouterr().out

    return call


def test_both_engines_without_a_bundle(exported, tmp_path, run):
    model = exported("jetson-jp72", *CLIPS)
    (tmp_path / "orin.engine").write_bytes(b"plan")
    plan, places = f"8.7={tmp_path / 'orin.engine'}", ["--triton", tmp_path / "r", "--deepstream", tmp_path / "d"]
    written = json.loads(run(model, *places, "--name", "actions", "--plan", plan, "--span", 32, "--json"))
    assert set(written) == {"triton", "deepstream"}
    assert written["triton"]["models"]["actions_trt"]["plans"] == ["8.7"]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["actions", "actions_trt"]
    assert (tmp_path / "d" / "app_config.txt").is_file()
    assert not model.with_name(f"{model.name}.tar").exists()


def test_a_repository_beside_a_bundle(tmp_path, run):
    model = make_model(tmp_path / "m", "onnxruntime-cpu")
    said = run(model, "--triton", tmp_path / "r", "--out", tmp_path / "out")
    assert said.startswith(f"{tmp_path / 'r'}/onnxruntime-cpu: max_batch_size 0\n{tmp_path / 'out'}: 9 files")
    assert (tmp_path / "out" / "SHA256SUMS").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "x"], "--name and --plan are for --triton"),
        (["--triton", "r", "--plan", "8.7=a", "--plan", "8.7=b"], "--plan has two files for 8.7"),
        (["--span", "32"], "--span is for --deepstream"),
        (["--triton", "r", "--plan", "model.engine"], "8.7=model.engine"),
    ],
)
def test_options_that_do_not_fit(tmp_path, run, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *arguments)
    assert (stop.value.code, message in capsys.readouterr().err) == (2, True)


def test_an_engine_that_is_not_there(exported, tmp_path, run):
    with pytest.raises(ConfigError, match="no such file"):
        run(exported("jetson-jp72", *CLIPS), "--triton", tmp_path / "r", "--plan", "8.7=none")
    assert not (tmp_path / "r").exists()
