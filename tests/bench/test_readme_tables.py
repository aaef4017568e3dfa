"""Tables are what their rows say, in bench/results and in the README."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apt_edge.errors import ConfigError, GateError
from apt_edge.files import write_json
from bench import readme
from bench.report import write_report
from tests.bench.rows_example import prompt_rows, suite_rows

RESULTS = Path(__file__).parents[2] / "bench" / "results"
TEXT = """Before.

<!-- bench/results/prompts/table.md -->

After.

<!-- bench/results/league/league.md -->

| old |
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(TEXT)
    write_json(tmp_path / "bench/results/prompts/rows.json", prompt_rows())
    (tmp_path / "bench/results/league").mkdir()
    (tmp_path / "bench/results/league/league.md").write_text("| method |\n|---|\n| apt |\n")
    return tmp_path


def write(root: Path) -> list[str]:
    found = readme.stale(root)
    for path, text in found.items():
        (root / path).write_text(text)
    return sorted(path.as_posix() for path in found)


def test_tables_are_written_and_then_are_current(root: Path) -> None:
    assert write(root) == ["README.md", "bench/results/prompts/table.md"]
    table = (root / "bench/results/prompts/table.md").read_text()
    text = (root / "README.md").read_text()
    assert table.count("\n| ") == 7
    assert f"<!-- bench/results/prompts/table.md -->\n\n{table}\nAfter." in text
    assert text.endswith("<!-- bench/results/league/league.md -->\n\n| method |\n|---|\n| apt |\n")
    assert write(root) == []


def test_a_changed_row_a_changed_table_and_a_changed_readme_are_stale(root: Path) -> None:
    write(root)
    path, page = root / "bench/results/prompts/table.md", root / "README.md"
    path.write_text(path.read_text().replace("slower", "faster", 1))
    assert write(root) == ["bench/results/prompts/table.md"]
    page.write_text(page.read_text().replace("| none", "| NONE", 1))
    assert write(root) == ["README.md"]
    write_json(root / "bench/results/prompts/rows.json", prompt_rows(seed=1))
    assert write(root) == ["README.md", "bench/results/prompts/table.md"]


def test_the_check_names_what_is_stale(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "ROOT", root)
    monkeypatch.setattr("sys.argv", ["bench.readme", "--check"])
    with pytest.raises(GateError, match=r"bench/results/prompts/table\.md, README\.md") as caught:
        readme.main()
    assert caught.value.exit_code == 4
    assert not (root / "bench/results/prompts/table.md").exists()
    write(root)
    with pytest.raises(GateError, match=r"(?s)found: bench/results/report\.html\n.*bench\.report bench/results"):
        readme.main()
    write_report([root / "bench/results"], root / "bench/results/report.html")
    readme.main()


def test_a_page_of_other_rows_is_stale(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = root / "bench/results"
    write(root)
    write_report([results], results / "report.html")
    assert not readme.page_is_stale(root)
    write(root)
    (results / "prompts/table.md").write_text("a table of latencies is not on the page")
    assert not readme.page_is_stale(root)
    (results / "league/league.md").write_text("| other |\n|---|\n| apt |\n")
    assert readme.page_is_stale(root)
    write_report([results], results / "report.html")
    write_json(results / "prompts/rows.json", prompt_rows(seed=1))
    assert readme.page_is_stale(root)
    monkeypatch.setattr(readme, "ROOT", root)
    monkeypatch.setattr("sys.argv", ["bench.readme"])
    readme.main()
    assert "report.html was made of other rows: run python -m bench.report bench/results" in capsys.readouterr().err
    assert readme.page_is_stale(root)
    write_report([results], results / "report.html")
    assert not readme.page_is_stale(root)


def test_batches_and_suites_of_one_file_can_be_told_apart(root: Path) -> None:
    rows = [
        row
        for suite in ("gpu-vit-small", "gpu-vit-base")
        for batch in (1, 8)
        for row in suite_rows({"contender": "none", "ms": 3}, {"contender": "APT", "ms": 4}, suite=suite, batch=batch)
    ]
    write_json(root / "bench/results/prompts/rows.json", rows)
    lines = readme.table_of(root / "bench/results/prompts/rows.json").splitlines()
    assert lines[0].startswith("| suite ")
    assert "APT, batch 8" in lines[-1]
    assert len(set(lines)) == 10


def test_two_clocks_in_one_table_are_told_apart(root: Path) -> None:
    path = root / "bench/results/prompts/rows.json"
    assert "clock" not in readme.table_of(path)
    rows = [*prompt_rows(), *prompt_rows(suite="gpu", clock="cuda events")]
    write_json(path, rows)
    lines = readme.table_of(path).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:3]] == ["suite", "clock"]
    assert sum("| cuda events |" in line for line in lines) == 7


@pytest.mark.parametrize("name", ["steps-nano", "export-matrix"])
def test_other_forms_have_their_own_tables(root: Path, name: str) -> None:
    shutil.copytree(RESULTS / name, root / "bench/results" / name)
    write(root)
    (root / "bench/results" / name / "table.md").write_text("")
    assert write(root) == [f"bench/results/{name}/table.md"]
    (root / "README.md").write_text(f"<!-- bench/results/{name}/table.md -->\n\n")
    with pytest.raises(ConfigError, match="more than one table"):
        readme.stale(root)


def test_what_is_not_there_or_unknown_is_refused(root: Path) -> None:
    (root / "README.md").write_text("<!-- bench/results/none/table.md -->\n\n")
    with pytest.raises(ConfigError, match="not there"):
        readme.stale(root)
    write_json(root / "bench/results/prompts/rows.json", [{"a": 1}])
    with pytest.raises(ConfigError, match="unknown form"):
        readme.stale(root)
