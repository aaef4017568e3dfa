"""Every method x every target: exported, proved, compiled where the page has a gate, and tabulated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_ir
import onnxscript
import pytest
import torch

import apt_edge
import export
from apt_edge.backbone.checkpoints import freeze
from apt_edge.backbone.folded import folded_model
from apt_edge.backbone.vit import SIZES, Vit
from apt_edge.errors import ConfigError, GateError
from apt_edge.methods.vpt_deep import VptDeepTokens
from apt_edge.tables import Row
from bench.build import fingerprint
from bench.cells import AS_TOKENS, FOLDED, Candidate, trained, untrained
from bench.matrix import activation_pairs, check, run_matrix, tables
from bench.rows import ROWS, read_list
from tests.bench.test_unfolded import finished_run
from tests.conftest import TINY, TINY_CLIP, tiny_model, tiny_pack
from tests.export.exporting import LABELS, PAGES, target

PROMPTS = {"tokens": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "apt": PROMPTS,
    FOLDED: PROMPTS,
    AS_TOKENS: PROMPTS,
    "vpt-shallow": PROMPTS,
    "adaptformer": {"r": 4},
}
CONSTANTS = {"apt": 4, FOLDED: 4}
TARGETS = [path.stem for path in sorted(PAGES.glob("*.toml"))]
RESULTS = Path(__file__).parents[2] / "bench" / "results"


def candidate(name: str) -> Candidate:
    """A column with random weights, none of which are zero."""

    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        vit = freeze(Vit(TINY))
        if name == AS_TOKENS:
            tuned = tiny_model(vit, "vpt-deep", **SETTINGS[name])
            return VptDeepTokens(vit, tuned.method, tuned.head).requires_grad_(False).eval()
        return folded_model(tiny_pack(vit, name.split()[0], **SETTINGS[name]), vit)

    prompts = {0: 8, 1: 8} if name in (*CONSTANTS, AS_TOKENS) else {}
    return Candidate(name, "tiny", f"{name}, seeds of these tests", TINY_CLIP, LABELS, make, prompts)


@pytest.fixture(scope="module")
def matrix(clip_list: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path]:
    """All rows of the tiny matrix and the directory that they are in."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    out = tmp_path_factory.mktemp("matrix")
    return run_matrix(
        [candidate(name) for name in SETTINGS], [target(page) for page in TARGETS], clip_list, 2, out
    ), out


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("page", TARGETS)
def test_every_method_passes_for_every_target(matrix: tuple[list[Row], Path], method: str, page: str) -> None:
    (row,) = [row for row in matrix[0] if (row["method"], row["target"]) == (method, page)]
    wanted = target(page)
    assert "refused" not in row
    assert 0 < row["max_abs"] <= wanted.tolerance.max_abs * max(1.0, row["max_logit"])
    assert row["top1_agreement"] >= wanted.tolerance.top1_agreement
    assert row["max_logit"] > 0.1
    assert row["attention"] == TINY.depth
    assert row["constants"] == CONSTANTS.get(method, 0)
    assert (row["prompt_bytes"] > 0) == (method in CONSTANTS)
    if wanted.gate == "none":
        assert row["fused_attention"] is None
    else:
        assert (row["fused_attention"], row["prompt_constants"]) == (TINY.depth, CONSTANTS.get(method, 0))
        assert row["activation_bytes"] > 0
    assert row["gmacs"] > 0


@pytest.mark.slow
def test_rows_are_kept_while_nothing_changed(
    matrix: tuple[list[Row], Path], clip_list: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = matrix

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a cell was made again")

    monkeypatch.setattr("bench.matrix.cell", never)
    candidates, targets = [candidate(name) for name in SETTINGS], [target(page) for page in TARGETS]
    assert run_matrix(candidates, targets, clip_list, 2, out) == rows
    assert (out / "table.md").read_text().strip() == tables(rows)
    assert (out / "activation.svg").read_text().startswith("<svg")
    with pytest.raises(AssertionError, match="made again"):  # other tolerances are another target
        run_matrix(candidates[:1], [target(TARGETS[0], "tolerance.kl=1")], clip_list, 2, out)
    assert json.loads((out / ROWS).read_text()) == rows  # what was there is lost only to a finished run


def test_a_refused_cell_is_shown_and_tried_again(clip_list: Path, tmp_path: Path) -> None:
    strict = target("onnxruntime-cpu", "tolerance.max_abs=1e-12")
    (row,) = run_matrix([candidate("linear")], [strict], clip_list, 2, tmp_path)
    assert "parity failed" in row["refused"]
    assert "| onnxruntime-cpu | refused |" in tables([row])
    assert "* linear for onnxruntime-cpu: parity failed" in tables([row])
    with pytest.raises(GateError, match="1 of 1 exports"):
        check([row])
    assert not (tmp_path / "activation.svg").exists()
    (again,) = run_matrix([candidate("linear")], [target("onnxruntime-cpu")], clip_list, 2, tmp_path)
    assert "refused" not in again
    check([again])


@pytest.mark.slow
def test_a_run_with_one_target_keeps_the_others_rows(
    matrix: tuple[list[Row], Path], clip_list: Path, tmp_path: Path
) -> None:
    rows, out = matrix
    shutil.copy(out / ROWS, tmp_path / ROWS)
    changed = target(TARGETS[1], "tolerance.kl=1")  # other tolerances are another target: the cell is made again
    after = run_matrix([candidate("linear")], [changed], clip_list, 2, tmp_path)
    assert read_list(tmp_path / ROWS) == after
    assert (tmp_path / "table.md").read_text().strip() == tables(after)
    (made,) = [index for index, (one, other) in enumerate(zip(after, rows, strict=True)) if one != other]
    assert (after[made]["method"], after[made]["target"]) == ("linear", TARGETS[1])
    assert after[made]["inputs_sha256"] != rows[made]["inputs_sha256"]


@pytest.mark.parametrize("path", ["runtime/agreement.py", "video/preprocess.py", "pack.py", "backbone/vit.py"])
def test_rows_depend_on_the_whole_library(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    copied = tmp_path / "apt_edge"
    shutil.copytree(Path(apt_edge.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(apt_edge, "__file__", str(copied / "__init__.py"))
    assert fingerprint() == before
    (copied / path).write_text((copied / path).read_text() + "\n")
    assert fingerprint() != before


@pytest.mark.parametrize("path", ["proof/parity.py", "targets/tensorrt-rtx.toml"])
def test_rows_depend_on_the_whole_exporter(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    copied = tmp_path / "export"
    shutil.copytree(Path(export.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(export, "__file__", str(copied / "__init__.py"))
    assert fingerprint() == before
    (copied / path).write_text((copied / path).read_text() + "\n")
    assert fingerprint() != before


@pytest.mark.parametrize("library", [torch, onnx, onnx_ir, onnxscript])
def test_rows_depend_on_the_libraries(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    monkeypatch.setattr(library, "__version__", "0")
    assert fingerprint() != before


def row(method: str, activation: int | None) -> Row:
    return {"method": method, "target": "t", "activation_bytes": activation}


def test_the_claim_about_memory_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    check([row("apt", 9), row(AS_TOKENS, 10), row(FOLDED, 9)])
    assert capsys.readouterr().err == ""
    for rows in (
        [row("apt", None), row(AS_TOKENS, None)],
        [row("apt", 9)],
        [row(AS_TOKENS, 9), row(FOLDED, 9)],
        [row("apt", 9) | {"prompts": {"0": 4}}, row(AS_TOKENS, 9) | {"prompts": {"0": 8}}],
        [row("apt", 9) | {"backbone": "a"}, row(AS_TOKENS, 9) | {"backbone": "b"}],
    ):
        check(rows)
        assert "no pair to compare" in capsys.readouterr().err
    for more in (9, 10):
        with pytest.raises(GateError, match="does not need less activation memory"):
            check([row("apt", more), row(AS_TOKENS, 9)])


def test_models_that_cannot_be_compared_are_refused(clip_list: Path, tmp_path: Path, tiny_vit: Vit) -> None:
    for name, method, tokens in (("a", "apt", 3), ("b", "vpt-deep", 4)):
        (tmp_path / name).mkdir()
        finished_run(tiny_vit, tmp_path / name, method, tokens=tokens)
    columns = list(trained([tmp_path / "a", tmp_path / "b"]))
    assert [column.name for column in columns] == ["apt", FOLDED, AS_TOKENS]
    with pytest.raises(ConfigError, match="different prompts"):
        run_matrix(columns, [target()], clip_list, 2, tmp_path / "out")
    with pytest.raises(ConfigError, match="two models are apt"):
        run_matrix([columns[0], columns[0]], [target()], clip_list, 2, tmp_path / "out")


@pytest.mark.slow
def test_random_models_of_any_size(clip_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    rows = run_matrix(list(untrained("tiny", 6, 7)), [target()], clip_list, 2, tmp_path)
    assert [row["method"] for row in rows] == list(SETTINGS)
    gmacs = {row["method"]: row["gmacs"] for row in rows}
    assert gmacs["linear"] < gmacs["apt"] == gmacs[FOLDED] < gmacs[AS_TOKENS]
    assert rows[1]["prompts"] == {"0": 6, "1": 6}
    check(rows)


@pytest.mark.slow
def test_program(clip_list: Path, tmp_path: Path, tiny_vit: Vit) -> None:
    finished_run(tiny_vit, tmp_path, "vpt-deep", tokens=4)
    arguments = [
        "--clips",
        str(clip_list),
        "--target",
        str(PAGES / "onnxruntime-cpu.toml"),
        "--out",
        str(tmp_path / "out"),
    ]
    command = [sys.executable, "-m", "bench.matrix", *arguments]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "out" / "table.md").read_text()
    assert [row["method"] for row in read_list(tmp_path / "out" / ROWS)] == [FOLDED, AS_TOKENS]
    neither = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (neither.returncode, "either finished runs or --size" in neither.stderr) == (2, True)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("export-matrix*")), ids=lambda path: path.name)
def test_committed_results_say_what_their_rows_say(path: Path) -> None:
    rows = read_list(path / ROWS)
    assert len(rows) == len(SETTINGS) * len(TARGETS)
    assert (path / "table.md").read_text().strip() == tables(rows)
    assert not [row for row in rows if "refused" in row]
    pairs = activation_pairs(rows)
    assert {pair["target"] for pair in pairs} == {page for page in TARGETS if target(page).gate != "none"}
    assert all(pair["apt"] < pair["tokens"] for pair in pairs)
