"""What devices sent back -> rows: `python -m bench.ingest results.json ... --out DIR`.

Reads the `results.json` of a bundle and of the GPU suite (`bench.sent`), and adds their rows to those that an earlier
call left in DIR. A file of the GPU suite is kept there as well, for what it tells beside latencies. Bundles were
measured one after the other, perhaps on different days: between them there is no interval and no winner, only the ratio
of medians to a model without prompts of the same device and setting.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import atomic, sha256, write_json
from apt_edge.runtime.model_dir import ONNX
from apt_edge.tables import Row, markdown_table
from bench.compare import differences
from bench.graph import graph_macs
from bench.numbers import NOT_PAIRED
from bench.rows import BENCH_COLUMNS, ROWS, check_rows, read_rows
from bench.sent import BUNDLE, KEPT, SUITE, SentBundle, SentRows, bundle_rows, read_sent

COLUMNS = {
    "device": lambda row: str(row["device"]),
    "suite": lambda row: str(row["suite"]),
    "clock": lambda row: str(row["clock"]),
    **BENCH_COLUMNS,
}


def ingest(
    files: Sequence[Path], out: Path, models: Sequence[Path] = (), with_failures: bool = False
) -> tuple[list[Row], list[str]]:
    """Check files and add their rows to those of `out`; nothing is written unless all is in order.

    Args:
        files: what devices sent.
        out: directory of `rows.json`; files of the GPU suite are copied into it (`KEPT`).
        models: exported directories; they tell the GMACs of the bundles that were made of them.
        with_failures: take rows of models whose proofs failed, too; their `warnings` say so.

    Returns:
        All rows, and what was not run on the devices.

    Raises:
        ConfigError: a file is no result, is damaged, or was taken before.
        GateError: a proof failed.
    """
    gmacs = {sha256(path / ONNX): graph_macs(path / ONNX) / 1e9 for path in models}
    rows = _taken(out / ROWS)
    seen = {row["source"]["sha256"]: f"{row['source']['file']} in {out / ROWS}" for row in rows}
    missing: list[str] = []
    kept: dict[str, Path] = {}
    for path in files:
        digest = _digest(path)
        if digest in seen:
            raise ConfigError(f"{path} is {seen[digest]} once more", fix="give each result once; a copy adds nothing")
        seen[digest] = str(path)
        sent = read_sent(path)
        _refuse_failures(path, sent, with_failures)
        missing += [f"{path}: {step.step}: {step.what}" for step in sent.failed]
        form = BUNDLE if isinstance(sent, SentBundle) else SUITE
        source = {"form": form, "file": path.name, "sha256": digest, "created": sent.created}
        if form == SUITE:
            kept[KEPT.format(digest[:8])] = path
        new = list(bundle_rows(path, sent, gmacs)) if isinstance(sent, SentBundle) else sent.checked(path)
        words = [f"{step.step}: {step.what}" for step in sent.failed]
        marked = [row | {"source": source, "warnings": [*row.get("warnings", []), *words]} for row in new]
        rows += _renamed(marked, rows, form)
    rows = _related(rows)
    check_rows(rows, ", ".join(map(str, files)))
    write_json(out / ROWS, rows)
    for name, path in kept.items():
        with atomic(out / name) as temporary:
            shutil.copyfile(path, temporary)
    return rows, missing


def _taken(path: Path) -> list[Row]:
    """Rows of earlier calls."""
    rows = read_rows(path) if path.exists() else []
    if any(row.get("source") is None for row in rows):
        raise ConfigError(f"{path} holds rows that were measured here", fix="choose another directory with --out")
    return rows


def _digest(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path} is not a file", fix="name the results.json that a device wrote, one or more")
    return sha256(path)


def _refuse_failures(path: Path, sent: SentBundle | SentRows, with_failures: bool) -> None:
    broken = [f"{step.step}: {step.what}" for step in sent.failed if step.gate]
    if isinstance(sent, SentBundle) and not broken and not (sent.parity and sent.parity.get("passed")):
        broken = ["selftest: nothing says that the logits are right"]
    if broken and not with_failures:
        raise GateError(
            f"{path} tells of proofs that failed: a wrong answer has no latency",
            found="; ".join(broken),
            fix="correct the cause and measure again, or give --with-failures, which marks the rows",
        )


def _renamed(new: list[Row], rows: Sequence[Row], form: str) -> list[Row]:
    """Rows whose names no other row has: a suite that comes again is `NAME #2`, a model of a bundle likewise."""
    if form == BUNDLE:
        for row in new:
            row["contender"] = _free(row["contender"], {o["contender"] for o in rows if o["suite"] == row["suite"]})
        return new
    taken = {row["suite"] for row in rows}
    return [row | {"suite": _free(row["suite"], taken)} for row in new]


def _free(name: str, taken: set[str]) -> str:
    numbered = (name if count == 1 else f"{name} #{count}" for count in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate not in taken)


def _related(rows: Sequence[Row]) -> list[Row]:
    """Rows of bundles against the first one without prompts of the same suite, device and setting."""
    related = []
    for row in rows:
        if row["source"]["form"] == BUNDLE:
            base = next((other for other in rows if other["method"] == "linear" and _same_setting(other, row)), None)
            row = row | _against(row, base)
        related.append(row)
    return related


def _same_setting(a: Row, b: Row) -> bool:
    keys = ("suite", "session", "mode", "batch")
    return a["source"]["form"] == BUNDLE and all(a[key] == b[key] for key in keys) and not differences(a, b)


def _against(row: Row, base: Row | None) -> Row:
    ratio = base and row["latency_ms_per_clip"] / base["latency_ms_per_clip"]
    itself = 1.0 if row is base else None
    gmacs = base and base["gmacs"] and row["gmacs"] and row["gmacs"] / base["gmacs"]
    return {
        "baseline": base and base["contender"],
        "latency_ratio": ratio,
        "latency_ratio_low": itself,
        "latency_ratio_high": itself,
        "verdict": "baseline" if itself else NOT_PAIRED,
        "gmacs_ratio": gmacs,
    }


def main() -> None:
    """Check what devices sent back and merge it into the rows of one directory."""
    parser = argparse.ArgumentParser(prog="bench.ingest", description=main.__doc__)
    parser.add_argument("file", type=Path, nargs="+", help="results.json of a bundle or of the GPU suite")
    parser.add_argument("--out", type=Path, required=True, help=f"directory of {ROWS}; rows that it has are kept")
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR",
                        help="exported models that the bundles were made of, for their GMACs")  # fmt: skip
    parser.add_argument("--with-failures", action="store_true", help="take rows whose proofs failed, marked as such")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    rows, failed = ingest(args.file, args.out, args.models, args.with_failures)
    for text in failed:
        print(text, file=sys.stderr)
    print(json.dumps(rows, indent=2) if args.json else markdown_table(rows, COLUMNS))


if __name__ == "__main__":
    run_tool(main, "bench.ingest")
