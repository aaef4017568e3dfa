"""The README tells the truth: its commands exist, its printed results are what the programs print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.readme import page_is_stale, stale
from tests.programs import usage_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^    \$ python (-m .+)\n    (\{.+\})$", README, re.MULTILINE)
PROGRAMS = sorted(set(re.findall(r"^    python -m ([a-z_.]+)", README, re.MULTILINE)))


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_shown_output_is_printed(command, output):
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == output


@pytest.mark.parametrize(
    ("command", "table"), re.findall(r"^<!-- \$ python (-m .+) -->\n\n((?:\|.+\n)+)", README, re.MULTILINE)
)
def test_shown_table_is_printed(command, table):
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == table.strip()


def test_there_is_something_to_check():
    assert len(SHOWN) >= 1
    assert "<!-- $ python -m bench.flops" in README
    assert len(PROGRAMS) >= 5


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_of_shown_programs_exist(program):
    text = README.replace("\\\n", " ")
    for line in re.findall(rf"^    python -m {re.escape(program)} (.+)$", text, re.MULTILINE):
        subcommand = [line.split()[0]] if line.split()[0].isalpha() else []
        usage = usage_of(program, *subcommand)
        for option in re.findall(r"--[a-z-]+", line.split("#")[0]):
            assert option in usage, f"{program} has no {option}"


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"[\w/.-]+\.(?:toml|md)\b", README)) | set(re.findall(r"\]\(([^)#:]+)\)", README)))
)
def test_named_files_exist(path):
    assert (ROOT / path).exists()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_extras_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r'"\.\[([\w-]+)\]"', README):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


def test_tables_are_what_the_committed_rows_say():
    assert "<!-- bench/results/" in README
    assert sorted(map(str, stale(ROOT))) == [], "run python -m bench.readme and commit"
    assert not page_is_stale(ROOT), "run python -m bench.report bench/results and commit"
