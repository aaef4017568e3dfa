"""The README's tables from the committed rows: `python -m bench.readme`.

Beside each `rows.json` in `bench/results` a `table.md` is written from it; below each comment of the README that names
such a file, `<!-- bench/results/X/table.md -->`, stands its table. The page of all results, bench/results/report.html,
is written by `python -m bench.report bench/results`; here it is only compared with the files that it was made of.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import atomic
from apt_edge.tables import Column, Row, markdown_table
from bench import matrix, steps
from bench.page.columns import SHORT_COLUMNS, labelled
from bench.report import PAGE, is_current
from bench.rows import ROWS, read_list, read_rows

ROOT = Path(__file__).parents[1]
README, RESULTS, TABLE = Path("README.md"), Path("bench/results"), "table.md"
SHOWN = re.compile(r"(?P<comment><!-- (?P<path>bench/results/\S+\.md) -->)\n+(?:\|.*\n)*\n*")


def table_of(path: Path) -> str:
    """The table of a `rows.json`, by the form of its rows: latencies, training steps, or the export matrix.

    Raises:
        ConfigError: the rows cannot be trusted, or are of no known form.
    """
    rows = read_list(path)
    if _have(rows, "session", "times_ms"):
        rows = labelled(read_rows(path))
        several = [key for key in ("suite", "clock") if len({row[key] for row in rows}) > 1]
        first: dict[str, Column] = {key: _plainly(key) for key in several}
        return markdown_table(rows, first | SHORT_COLUMNS)
    if _have(rows, "against", "times_ms"):
        return steps.tables(rows)
    if _have(rows, "target"):
        return matrix.tables(rows)
    raise ConfigError(f"{path} has rows of an unknown form", fix="commit what bench.run, steps, matrix or ingest wrote")


def _plainly(key: str) -> Column:
    return lambda row: str(row[key])


def _have(rows: Sequence[Row], *keys: str) -> bool:
    return all(row.keys() >= set(keys) for row in rows)


def wanted(root: Path) -> dict[Path, str]:
    """What each generated file should hold, by its path below `root`; raises ConfigError, see `table_of`."""
    tables = {
        rows.parent.relative_to(root) / TABLE: table_of(rows).rstrip() + "\n"
        for rows in sorted((root / RESULTS).glob(f"*/{ROWS}"))
    }
    return {**tables, README: _readme(root, tables)}


def _readme(root: Path, tables: Mapping[Path, str]) -> str:
    def shown(found: re.Match[str]) -> str:
        path = Path(found["path"])
        if path not in tables and not (root / path).is_file():
            raise ConfigError(
                f"{README} shows {path}, which is not there", fix="correct the comment, or commit the rows"
            )
        text = tables[path] if path in tables else (root / path).read_text(encoding="utf-8")
        if not all(line.startswith("|") for line in text.splitlines()):
            raise ConfigError(f"{path} is more than one table", fix=f"link to it in {README} instead")
        return f"{found['comment']}\n\n{text}" + ("\n" if found.end() < len(found.string) else "")

    return SHOWN.sub(shown, (root / README).read_text(encoding="utf-8"))


def stale(root: Path) -> dict[Path, str]:
    """What `wanted` says of the files that hold something else."""
    return {
        path: text
        for path, text in wanted(root).items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    }


def page_is_stale(root: Path) -> bool:
    """Whether the committed page was made of other files than are there now."""
    return not is_current(root / RESULTS / PAGE, [root / RESULTS])


def main() -> None:
    """Write the tables of bench/results and of the README from the committed rows."""
    parser = argparse.ArgumentParser(prog="bench.readme", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    parser.add_argument("--json", action="store_true", help="print the files as JSON")
    args = parser.parse_args()
    found = stale(ROOT)
    names = [path.as_posix() for path in found]
    page = (RESULTS / PAGE).as_posix() if page_is_stale(ROOT) else None
    if args.check and (found or page):
        raise GateError(
            "tables or the page differ from the rows that they were made of",
            found=", ".join([*names, *([page] if page else [])]),
            fix=f"run bench.readme, then python -m bench.report {RESULTS}, and commit",
        )
    for path, text in found.items():
        with atomic(ROOT / path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(json.dumps(names) if args.json else "\n".join(names) or "every table is what its rows say")
    if page:
        print(f"{page} was made of other rows: run python -m bench.report {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    run_tool(main, "bench.readme")
