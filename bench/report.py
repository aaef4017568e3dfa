"""Run directories -> one HTML page: `python -m bench.report [DIR ...]`. The page holds everything and fetches nothing.

A directory with `rows.json` is a run; any other is searched for runs. Each suite of latencies becomes a section; other
results are shown by the tables that their own programs wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import atomic, sha256
from apt_edge.tables import Row, cells, markdown_table
from bench.gpu.suite import tables as gpu_tables
from bench.page.limits import environments, limits
from bench.page.predictions import PREDICTED, Prediction, make_prediction
from bench.page.sections import Section, make_section
from bench.rows import ROWS, SUMMARY, check_rows, read_list
from bench.sent import KEPT, SEND_AGAIN, SentRows, read_sent

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
INPUTS = '<meta name="inputs" content="sha256:{}">'
PAGE, RUNS = "report.html", Path("runs/bench")


@dataclass(frozen=True)
class Report:
    """Everything that a page shows.

    Attributes:
        sections: one a suite of measured latencies.
        predictions: tables and figures of latencies that nobody measured.
        others: name and text of results in other forms, as their own programs wrote them.
        limits: what all this does not say.
        inputs: see `inputs_sha256`.
    """

    sections: Sequence[Section]
    predictions: Sequence[Prediction]
    others: Sequence[tuple[str, str]]
    limits: Sequence[str]
    inputs: str

    @property
    def title(self) -> str:
        """The suite's name, or how many there are."""
        return (
            self.sections[0].suite
            if len(self.sections) == 1
            else f"Latency, memory, energy: {len(self.sections)} suites"
        )

    def html(self) -> str:
        """The page."""
        page = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        template = page.from_string(TEMPLATE.read_text(encoding="utf-8"))
        return template.render(report=self, inputs=INPUTS.format(self.inputs), cells=cells, environments=environments)

    def markdown(self) -> str:
        """Claims and tables."""
        texts = [text for section in self.sections for text in _markdown(section)]
        for prediction in self.predictions:
            texts += [
                "## Predicted, not measured",
                prediction.note,
                markdown_table(prediction.rows, prediction.columns),
            ]
        return "\n\n".join(texts)


def _markdown(section: Section) -> Iterator[str]:
    yield f"## {section.suite}: {section.title}"
    yield "\n".join([section.claims[0], "", *(f"* {claim}" for claim in section.claims[1:])]).rstrip()
    yield from (f"Warning. {text}" for text in section.warnings)
    for table in section.tables:
        yield f"### {table.title}"
        yield markdown_table(table.rows, table.short or table.columns)


def make_report(roots: Sequence[Path]) -> Report:
    """Read run directories, or directories that hold some.

    Raises:
        ConfigError: there are no latencies, or a row is not as `bench.rows` wants it.
    """
    sections: list[Section] = []
    predicted: list[Prediction] = []
    others: list[tuple[str, str]] = []
    summaries = False
    for folder in _folders(roots):
        if (folder / PREDICTED).is_file():
            predicted.append(make_prediction(read_list(folder / PREDICTED, "run bench.predict again")))
        rows = _latencies(folder)
        if rows:
            check_rows(rows, folder / ROWS)
            summary = _summary(folder)
            sections += [make_section(own, summary) for own in _suites(rows)]
            summaries |= summary is not None
        others += _others(folder, tables=not rows)
    if not sections:
        raise ConfigError(
            f"there are no latencies in {', '.join(map(str, roots))}",
            found=f"no {ROWS} of bench.run in it",
            fix="run bench.run first, or name a directory that it wrote",
        )
    rows = [row for section in sections for row in section.rows]
    return Report(sections, predicted, others, limits(rows, summaries), inputs_sha256(roots))


def inputs_sha256(roots: Sequence[Path]) -> str:
    """sha256 over the names and contents of all files that a page of these directories shows; the page holds it."""
    digest = hashlib.sha256()
    for folder in _folders(roots):
        patterns = (ROWS, PREDICTED, SUMMARY, KEPT.format("*"), *([] if _latencies(folder) else ["*.md"]))
        for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
            digest.update(f"{folder.name}/{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def is_current(page: Path, roots: Sequence[Path]) -> bool:
    """Whether a page was made of the files that these directories hold now."""
    return page.is_file() and INPUTS.format(inputs_sha256(roots)) in page.read_text(encoding="utf-8")


def _folders(roots: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(path for root in roots for path in _results(root)))


def _results(folder: Path) -> list[Path]:
    """The folder itself when it is a run, else everything below it that holds results."""
    if (folder / ROWS).is_file():
        return [folder]
    return sorted({path.parent for pattern in (ROWS, PREDICTED, "*.md") for path in folder.rglob(pattern)})


def _latencies(folder: Path) -> list[Row]:
    """The rows of `bench.run`; none where another program wrote rows of another form under the same name."""
    rows = read_list(folder / ROWS) if (folder / ROWS).is_file() else []
    return rows if all({"session", "times_ms"} <= row.keys() for row in rows) else []


def _summary(folder: Path) -> list[Row] | None:
    return read_list(folder / SUMMARY, "run bench.demo again") if (folder / SUMMARY).is_file() else None


def _suites(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of each suite and device."""
    for suite, device in dict.fromkeys((row["suite"], row["device"]) for row in rows):
        yield [row for row in rows if (row["suite"], row["device"]) == (suite, device)]


def _others(folder: Path, tables: bool) -> Iterator[tuple[str, str]]:
    """What the GPU suite measured beside latencies and, where asked, the tables that other programs wrote."""
    for path in sorted(folder.glob(KEPT.format("*"))):
        sent = read_sent(path)
        if isinstance(sent, SentRows) and (sent.parity or sent.steps or sent.switch):
            title = f"{folder.name}: PyTorch on {sent.rows[0]['device']}, beside latencies, {sent.created}"
            yield title, _beside(path, sent)
    for path in sorted(folder.glob("*.md")) if tables else []:
        yield f"{folder.name}/{path.name}", _text(path)


def _beside(path: Path, sent: SentRows) -> str:
    try:
        return gpu_tables({**sent.model_dump(), "rows": []})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged", found=repr(error), fix=SEND_AGAIN) from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def write_report(roots: Sequence[Path], out: Path, markdown: Path | None = None) -> Report:
    """Write the page, and its tables as Markdown where that is asked for; see `make_report`."""
    report = make_report(roots)
    for path, text in ((out, report.html()), *([(markdown, report.markdown() + "\n")] if markdown else [])):
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return report


def main() -> None:
    """Write one self-contained HTML page from run directories and print its tables as Markdown."""
    parser = argparse.ArgumentParser(prog="bench.report", description=main.__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="*", default=[RUNS], metavar="DIR", help=f"runs, or where runs are (default: {RUNS})"
    )
    parser.add_argument("--out", type=Path, help=f"the page (default: {PAGE} in the only DIR, else in {RUNS})")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--json", action="store_true", help="print the claims and the tables' rows as JSON")
    args = parser.parse_args()
    report = write_report(args.runs, args.out or (args.runs[0] if len(args.runs) == 1 else RUNS) / PAGE, args.markdown)
    print(json.dumps(_plain(report), indent=2) if args.json else report.markdown())


def _plain(report: Report) -> list[Row]:
    return [
        {
            "suite": section.suite,
            "title": section.title,
            "claims": list(section.claims),
            "warnings": list(section.warnings),
            "tables": {table.title: [_without_runs(row) for row in table.rows] for table in section.tables},
        }
        for section in report.sections
    ]


def _without_runs(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("times_ms", "environment", "accuracy_curve")}


if __name__ == "__main__":
    run_tool(main, "bench.report")
