"""The page and the demonstration's table, from results as the workshops write them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from apt_edge.errors import ConfigError, ModelError
from apt_edge.files import sha256, write_json
from apt_edge.tables import Row, markdown_table
from bench.demo import MethodFiles, summarise_methods
from bench.page.columns import SHORT_COLUMNS
from bench.predict import predict
from bench.report import make_report, write_report
from bench.roofline import load_roofline
from bench.rows import SUMMARY_COLUMNS, check_rows
from bench.run import run_suite
from bench.suite import Suite
from tests.bench.rows_example import ENVIRONMENT, EQUAL, prompt_rows, suite_rows

MEMORY = {"rss_mb": 120.0, "activation_mb": 15.8, "gpu_mb": None}
STAGES = {"decode_ms": 20.0, "preprocess_ms": 7.5, "transfer_ms": None, "inference_ms": 10.0, "end_to_end_ms": 38.0}


class Page(HTMLParser):
    """Collects tags and text, and every address that a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "data") and not (value or "").startswith(("#", "data:")):
                self.fetched.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def page_of(tmp_path: Path):
    """The page of a run with these rows, and of further runs beside it."""

    def write(rows: Sequence[Row], **others: Sequence[Row]) -> Page:
        for name, own in {"run": rows, **others}.items():
            check_rows(own, name)
            write_json(tmp_path / "runs" / name / "rows.json", own)
        write_report([tmp_path / "runs"], tmp_path / "report.html")
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def pair(**second: Any) -> list[Row]:
    return suite_rows({"contender": "none", "ms": 10}, {"contender": "APT", "ms": 12.5, "gmacs": 1.8} | second)


def test_the_page_holds_everything_and_fetches_nothing(page_of) -> None:
    rows = pair(contender="<b>APT & $x$</b>")
    page = page_of(rows)
    assert page.fetched == []
    assert not {"link", "script", "img", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 3  # runs, ratios, percentiles
    assert "b" not in page.tags  # names are text
    assert page.words.count("<b>APT & $x$</b>") == 6  # claim, table, three figures, hashes
    ratio = f"{rows[1]['latency_ratio']:.3f} [{rows[1]['latency_ratio_low']:.3f}, {rows[1]['latency_ratio_high']:.3f}]"
    for text in (ratio, "Some CPU", "What this does not say", "No accuracy is shown", "ab" * 32, "onnxruntime 1.31.1"):
        assert text in page.words


def test_sections_appear_with_their_rows(page_of, tmp_path: Path) -> None:
    plain = page_of(pair())
    extra = {"memory": MEMORY, "stages": STAGES, "energy": {"joules_per_clip": 1.5, "source": "rapl"}, "accuracy": 0.7}
    full = page_of(pair(**extra, warnings=["the runtime complained"]))
    assert "Warning. APT: the runtime complained" in make_report([tmp_path]).markdown()
    for title in ("Stages of one run", "Memory", "Energy", "Accuracy against latency", "the runtime complained"):
        assert title not in plain.words
        assert title in full.words
    assert full.tags.count("svg") == plain.tags.count("svg") + 4
    assert "No accuracy is shown" not in full.words


def test_figure_5_and_slopes_beside_the_measured(page_of) -> None:
    page = page_of(prompt_rows())
    assert "The paper's Figure 5 for vit-small with 174 classes" in page.words
    assert "1,910,958" in page.words  # trained numbers of VPT-400
    assert "Scaling with prompts a block" in page.words
    assert "With 400 prompts a block the time ratio [95 %] is: APT 1.1" in page.words


def test_many_runs_become_pixels_within_the_page(page_of) -> None:
    rows = suite_rows({"contender": "none", "ms": 10}, {"contender": "APT", "ms": 11}, rounds=3000)
    ratio = rows[1]["latency_ms_median"] / rows[0]["latency_ms_median"]
    rows[1] |= {"latency_ratio": ratio, "latency_ratio_low": None, "latency_ratio_high": None, "verdict": "not paired"}
    for row in rows:
        row["mode"] = "mlperf"
    page = page_of(rows)
    assert page.fetched == []
    assert page.tags.count("image") == 1
    assert "3,000 queries back to back" in page.words
    assert "Latency ratio with its" in page.words  # without an interval, still with its place


def test_a_gpu_is_never_called_an_engine(page_of) -> None:
    gpu = {"session": "pytorch-cuda-graph", "device": "NVIDIA H200", "precision": "float16"}
    page = page_of(prompt_rows(suite="gpu-vit-small", **gpu), cpu=pair())
    assert "gpu-vit-small: PyTorch on NVIDIA H200" in page.words
    assert "example: ONNX Runtime on Some CPU" in page.words
    assert re.findall("TensorRT[^.]*", page.words) == ["TensorRT: how fast an engine is there, only an engine says"]


def test_what_a_user_would_pick_is_compared(page_of) -> None:
    rows = suite_rows(
        {"contender": "plain", "built": "torch.onnx.export", "ms": 20, "agreement": EQUAL},
        {"contender": "APT-400", "ms": 16, "agreement": EQUAL},
    )
    page = page_of(rows)
    assert "with the same weights in the same precision, ours is faster in 1 of 1 pairs: 1.2" in page.words


def test_predictions_are_headed_as_such(tmp_path: Path) -> None:
    rows = [predict(load_roofline(), "orin-nx", "vit-base", "apt", tokens, 1) for tokens in (100, 400)]
    write_json(tmp_path / "there" / "predicted.json", rows)
    write_json(tmp_path / "here" / "rows.json", pair())
    report = make_report([tmp_path])
    page = Page(report.html())
    assert "Predicted, not measured" in page.words
    assert "predicted ms a run" in page.words
    assert "## Predicted, not measured" in report.markdown()
    write_json(tmp_path / "there" / "predicted.json", pair())
    with pytest.raises(ConfigError, match="another kind"):
        make_report([tmp_path])


def test_results_of_other_programs_are_shown_as_they_wrote_them(tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "bench" / "results"
    for name in ("steps-nano", "export-matrix", "league-demo", "nano-motion"):
        shutil.copytree(results / name, tmp_path / name)
    write_json(tmp_path / "latency" / "rows.json", pair())
    page = Page(make_report([tmp_path]).html())
    for name in ("steps-nano/table.md", "export-matrix/table.md", "league-demo/league.md"):
        assert name in page.words
    assert "a training step of" in page.words


def test_rows_of_a_real_run_become_a_page(exported: Path, clip_list: Path, tmp_path: Path) -> None:
    contenders = [{"name": name, "model": str(exported / name)} for name in ("linear", "apt", "vpt-tokens")]
    values = {"name": "tiny", "baseline": "linear", "rounds": 10, "warmup": 1, "threads": 1, "stages": True}
    suite = Suite.model_validate({**values, "clips": str(clip_list), "contenders": contenders})
    run_suite(suite, tmp_path / "tiny", tmp_path)
    report = write_report([tmp_path / "tiny"], tmp_path / "report.html")
    page = Page(report.html())
    assert page.fetched == []
    for text in ("3 contenders, 10 interleaved rounds", "Stages of one run", "Memory", "torch ", "vpt-tokens"):
        assert text in page.words


def test_pages_are_reproducible(page_of, tmp_path: Path) -> None:
    page_of(pair())
    first = (tmp_path / "report.html").read_bytes()
    page_of(pair())
    assert (tmp_path / "report.html").read_bytes() == first


def summary_row(method: str, **changes: Any) -> Row:
    row = suite_rows({"contender": method, "ms": 10, "accuracy": 0.7, "trainable_parameters": 1234})[0]
    own = {"method": method, "accuracy_shuffled": 0.2, "attention": 12, "fused_attention": 12}
    return row | own | {"parity_max_abs": 1e-6, "parity_max_abs_float16": 1e-3} | changes


def test_training_stands_beside_its_latencies(tmp_path: Path) -> None:
    summary = [summary_row("apt", accuracy_curve=[[1, 0.2], [5, 0.7]]), summary_row("linear", accuracy_curve=[])]
    write_json(tmp_path / "rows.json", pair())
    write_json(tmp_path / "summary.json", summary)
    report = write_report([tmp_path], tmp_path / "report.html", tmp_path / "report.md")
    page = Page(report.html())
    for text in ("From training to the engine", "Accuracy while training", "12/12", "not a measured one"):
        assert text in page.words
    text = (tmp_path / "report.md").read_text()
    assert "### From training to the engine\n\n| method |" in text
    assert "### Latency\n\n| contender |" in text


def test_markdown() -> None:
    rows = pair(accuracy=0.5)
    lines = markdown_table(rows, SHORT_COLUMNS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("| none ")
    assert lines[3].endswith(" 50.0% |")
    assert "accuracy" not in markdown_table(pair(), SHORT_COLUMNS)
    assert "max dlogit" not in markdown_table(pair(), SHORT_COLUMNS)
    assert "70.0%" in markdown_table([summary_row("apt")], SUMMARY_COLUMNS)


@pytest.mark.parametrize("text", [None, "[]", "{", '{"a": 1}'])
def test_a_run_without_rows_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ConfigError, match=r"rows\.json"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_rows_without_their_environment_are_refused(tmp_path: Path) -> None:
    rows = pair()
    del rows[1]["environment"]
    write_json(tmp_path / "rows.json", rows)
    with pytest.raises(ConfigError, match="environment is missing"):
        make_report([tmp_path])


def test_every_different_environment_is_shown(page_of) -> None:
    noisy = pair()
    for row in noisy:
        row["environment"] = ENVIRONMENT | {"load_average": 7.5, "gpus": [{"name": "NVIDIA H200"}]}
    page = page_of(pair(), noisy=noisy)
    assert "load average 0.1" in page.words
    assert "load average 7.5" in page.words
    assert "0.1 to 7.5; 0 is a quiet machine" in page.words
    assert "gpus 0: name" in page.words


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A training run with exports as the other workshops leave it; the compiler's entry is written by hand."""
    folder = tmp_path / "apt"
    write_json(folder / "evaluation.json", {"accuracy": 0.75, "accuracy_shuffled": 0.25})
    (folder / "metrics.jsonl").write_text(
        '{"epoch": 1, "val_accuracy": null}\n{"epoch": 2, "val_accuracy": 0.4}\n{"epoch": 3, "val_accuracy": 0.75}\n'
    )
    for name, target in (("apt", "onnxruntime-cpu"), ("apt-half", "tensorrt-rtx")):
        shutil.copytree(exported / name, folder / "export" / target)
    sidecar = folder / "export" / "tensorrt-rtx" / "model.json"
    engine = {"compiler": "tensorrt-rtx 1.7", "attention": 2, "fused_attention": 2}
    write_json(sidecar, json.loads(sidecar.read_text()) | {"engine": engine})
    return folder


def measured(run: Path) -> Row:
    graph = sha256(run / "export" / "onnxruntime-cpu" / "model.onnx")
    return pair(contender="any name", model_sha256=graph)[1]


def test_demo_summary(run: Path) -> None:
    own = measured(run)
    rows = [*pair(contender="apt"), own]  # the second one has the name, the third one the graph
    (got,) = summarise_methods({"apt": MethodFiles.in_run(run)}, rows)
    assert (got["method"], got["accuracy"], got["accuracy_shuffled"]) == ("apt", 0.75, 0.25)
    for key in ("latency_ratio", "latency_ms_median", "gmacs"):
        assert got[key] == own[key]
    assert (got["fused_attention"], got["attention"], got["trainable_parameters"]) == (2, 2, 77)
    assert 0 < got["parity_max_abs"] < 1e-4 < got["parity_max_abs_float16"]
    assert got["accuracy_curve"] == [(2, 0.4), (3, 0.75)]
    write_json(run / "evaluation.json", {"accuracy": 0.75, "accuracy_shuffled": None})
    (got,) = summarise_methods({"apt": MethodFiles.in_run(run)}, rows)
    assert got["accuracy_shuffled"] is None


def test_demo_refuses_what_does_not_belong_together(run: Path) -> None:
    files = MethodFiles.in_run(run)
    with pytest.raises(ModelError, match="did not measure"):
        summarise_methods({"apt": files}, pair(contender="apt"))
    sidecar = files.engine / "model.json"
    facts = json.loads(sidecar.read_text())
    write_json(sidecar, {**facts, "pack_sha256": "another"})
    with pytest.raises(ModelError, match="different packs"):
        summarise_methods({"apt": files}, [measured(run)])
    del facts["engine"]
    write_json(sidecar, facts)
    with pytest.raises(ModelError, match="was not compiled"):
        summarise_methods({"apt": files}, [measured(run)])
    write_json(files.evaluation, {"accuracy": 1})
    write_json(sidecar, {**facts, "engine": {"compiler": "c", "attention": 2, "fused_attention": 2}})
    with pytest.raises(ConfigError, match="apt is incomplete"):
        summarise_methods({"apt": files}, [measured(run)])
