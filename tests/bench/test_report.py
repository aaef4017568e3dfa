"""The page and the demonstration's table, from results as the workshops write them."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from apt_edge.errors import ConfigError, ModelError
from apt_edge.files import sha256, write_json
from apt_edge.tables import markdown_table
from bench.demo import MethodFiles, summarise_methods
from bench.report import render, write_report
from bench.rows import BENCH_COLUMNS, SUMMARY_COLUMNS


def row(name: str, ratio: float, **changes: Any) -> dict[str, Any]:
    times = [10 * ratio + 0.1 * i for i in range(10)]
    values = {"suite": "s", "contender": name, "session": "onnxruntime-cpu", "rounds": 10, "baseline": "none"}
    values |= {"latency_ms_median": 10 * ratio, "latency_ms_p90": 11 * ratio, "latency_ms_p99": 12 * ratio}
    values |= {"latency_cv": 0.01, "latency_ratio": ratio, "latency_ratio_low": ratio, "latency_ratio_high": ratio}
    values |= {"verdict": "slower", "gmacs": 1.5, "gmacs_ratio": ratio, "trainable_parameters": 1234, "accuracy": None}
    values |= {"times_ms": times, "onnx_sha256": "ab" * 32}
    values |= {"environment": {"cpu": "Some CPU", "threads": 1, "load_average": 0.1}}
    return values | changes


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
            if key in ("src", "href", "xlink:href", "data") and not (value or "").startswith("#"):
                self.fetched.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_everything_and_fetches_nothing() -> None:
    page = Page(render([row("none", 1.0), row("<b>APT & $x$</b>", 1.25)]))
    assert page.fetched == []
    assert not {"link", "script", "img", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 2
    assert "b" not in page.tags  # names are text
    assert page.words.count("<b>APT & $x$</b>") == 4  # table, two figures, hashes
    for text in ("1.250 [1.250, 1.250]", "Some CPU", "What this does not say", "No accuracy is shown", "ab" * 32):
        assert text in page.words


def test_accuracies_and_training_add_figures() -> None:
    rows = [row("none", 1.0, accuracy=0.5), row("APT", 1.1, accuracy=0.7)]
    summary = [summary_row("apt", accuracy_curve=[[1, 0.2], [5, 0.7]]), summary_row("linear", accuracy_curve=[])]
    page = Page(render(rows, summary))
    assert page.tags.count("svg") == 4
    assert "From training to the engine" in page.words
    assert "12/12" in page.words
    assert "No accuracy is shown" not in page.words


def test_pages_are_reproducible() -> None:
    assert render([row("none", 1.0)]) == render([row("none", 1.0)])


def summary_row(method: str, **changes: Any) -> dict[str, Any]:
    return row(method, 1.0, method=method, accuracy=0.7, accuracy_shuffled=0.2, attention=12, fused_attention=12) | {
        "parity_max_abs": 1e-6,
        "parity_max_abs_float16": 1e-3,
        **changes,
    }


def test_markdown() -> None:
    lines = markdown_table([row("none", 1.0), row("APT", 1.25, accuracy=0.5)], BENCH_COLUMNS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "| 1,234 |" in re.sub(" +", " ", lines[2])
    assert lines[2].startswith("| none ")
    assert lines[3].endswith(" 50.0% |")
    assert "accuracy" not in markdown_table([row("none", 1.0)], BENCH_COLUMNS)
    assert "70.0%" in markdown_table([summary_row("apt")], SUMMARY_COLUMNS)


@pytest.mark.parametrize("text", [None, "[]", "{", '{"a": 1}'])
def test_a_run_without_rows_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ConfigError, match=r"rows\.json"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


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


def measured(run: Path) -> dict[str, Any]:
    return row("any name", 1.1, onnx_sha256=sha256(run / "export" / "onnxruntime-cpu" / "model.onnx"))


def test_demo_summary(run: Path) -> None:
    rows = [row("apt", 9.0), measured(run)]  # the first one has the name, the second one the graph
    (got,) = summarise_methods({"apt": MethodFiles.in_run(run)}, rows)
    assert (got["method"], got["accuracy"], got["accuracy_shuffled"]) == ("apt", 0.75, 0.25)
    assert (got["latency_ratio"], got["latency_ms_median"], got["gmacs"]) == (1.1, 11.0, 1.5)
    assert (got["fused_attention"], got["attention"], got["trainable_parameters"]) == (2, 2, 77)
    assert 0 < got["parity_max_abs"] < 1e-4 < got["parity_max_abs_float16"]
    assert got["accuracy_curve"] == [(2, 0.4), (3, 0.75)]
    write_json(run / "rows.json", rows)
    write_json(run / "summary.json", [got])
    text = write_report(run, run / "report.html")
    assert text.startswith("| method |")
    assert text.count("\n\n") == 1


def test_demo_refuses_what_does_not_belong_together(run: Path) -> None:
    files = MethodFiles.in_run(run)
    with pytest.raises(ModelError, match="did not measure"):
        summarise_methods({"apt": files}, [row("apt", 1.0)])
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
