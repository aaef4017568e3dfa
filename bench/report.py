"""Rows -> one HTML page: `python -m bench.report RUN_DIR`. The page holds everything and fetches nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jinja2

from apt_edge.errors import run_tool
from apt_edge.files import atomic
from apt_edge.tables import Row, cells, markdown_table
from bench import plots
from bench.rows import BENCH_COLUMNS, ROWS, SUMMARY, SUMMARY_COLUMNS, read_rows

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def render(rows: list[Row], summary: list[Row] | None = None) -> str:
    """The report as HTML.

    Args:
        rows: of one `bench.run`.
        summary: rows of `bench.demo`, to put training and export beside the latency.
    """
    figures = [
        (
            "Every timed run",
            "Each dot is one run. Spikes belong to the result: nothing is clipped.",
            plots.latency_distribution(rows),
        ),
        (
            "Measured against predicted",
            "Latency ratio with its 95 % interval against the GMAC ratio. On the dashed line, time follows arithmetic.",
            plots.ratio_against_gmacs(rows),
        ),
    ]
    if any(row.get("accuracy") is not None for row in rows):
        figures.append(("Accuracy against latency", "", plots.accuracy_against_latency(rows)))
    curves = {str(row["method"]): row["accuracy_curve"] for row in summary or [] if row.get("accuracy_curve")}
    if curves:
        figures.append(("Accuracy while training", "", plots.accuracy_curves(curves)))
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        suite=rows[0]["suite"],
        headline=_headline(rows),
        bench=cells(rows, BENCH_COLUMNS),
        summary=cells(summary, SUMMARY_COLUMNS) if summary else None,
        figures=figures,
        environment=rows[0]["environment"],
        hashes=[(row["contender"], row["onnx_sha256"]) for row in rows],
        limits=_limits(rows, bool(summary)),
    )


def write_report(run: Path, out: Path) -> str:
    """Write the page for a run directory (`rows.json`, `summary.json` when there is one); returns the Markdown tables.

    Raises:
        ConfigError: there are no rows.
    """
    rows = read_rows(run / ROWS)
    summary = read_rows(run / SUMMARY, "run bench.demo again") if (run / SUMMARY).is_file() else None
    html = render(rows, summary)
    with atomic(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    tables = [markdown_table(summary, SUMMARY_COLUMNS)] if summary else []
    return "\n\n".join([*tables, markdown_table(rows, BENCH_COLUMNS)])


def _headline(rows: list[Row]) -> str:
    first = rows[0]
    return (
        f"{len(rows)} contenders, {first['rounds']} interleaved rounds in one process, {_sessions(rows)} on "
        f"{first['environment']['threads']} thread(s). Ratios are medians of per-round ratios to {first['baseline']}, "
        "with a 95 % bootstrap interval; where the interval holds 1, no winner is named."
    )


def _sessions(rows: list[Row]) -> str:
    return ", ".join(dict.fromkeys(str(row["session"]) for row in rows))


def _limits(rows: list[Row], has_summary: bool) -> list[str]:
    circumstances: dict[str, Any] = rows[0]["environment"]
    limits = [
        f"These are latencies of {_sessions(rows)} on {circumstances['cpu']}. They say nothing about a GPU, a "
        "Jetson or another CPU: measure there.",
        "The intervals cover the noise between the rounds of this one run, not other days and machines, and 5 % of "
        "comparisons between equals are expected to name a winner.",
        "A latency is one clip through the graph: reading, decoding and preprocessing of the video are not in it.",
        "GMACs count products and LayerNorm; softmax, GELU and memory traffic cost time and no GMACs.",
        f"The load average was {circumstances['load_average']} before the start; 0 is a quiet machine.",
    ]
    if any("bfloat16" in str(row["session"]) for row in rows):
        limits.append(
            "bfloat16 has 8 significant bits: what that costs in accuracy must be measured on the trained model."
        )
    if all(row.get("accuracy") is None for row in rows) and not has_summary:
        limits.append("No accuracy is shown: fast is not yet good.")
    else:
        limits.append(
            "An accuracy is of one training seed on one set of held-out clips: several seeds, with clips of their own, "
            "say whether a difference is more than noise (train.league)."
        )
    if has_summary:
        limits.append(
            "Fused attention is counted in what the compiler built. The engine itself was not run for this page: a "
            "fused engine is not a measured one."
        )
    return limits


def main() -> None:
    """Write one self-contained HTML page from a run directory and print its tables as Markdown."""
    parser = argparse.ArgumentParser(prog="bench.report", description=main.__doc__)
    parser.add_argument("run", type=Path, help=f"directory with {ROWS}")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the run directory)")
    args = parser.parse_args()
    print(write_report(args.run, args.out or args.run / "report.html"))


if __name__ == "__main__":
    run_tool(main, "bench.report")
