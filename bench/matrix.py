"""Every method x every target, proved: `python -m bench.matrix RUN [RUN ...] --clips LIST --out DIR`.

The packs of finished training runs are exported for every page in export/targets; or, with `--size SIZE --tokens N`,
models of that size with random weights, which serve as well for memory and fusion. A row is one cell: it is kept as
long as pack, clips, target and sources are the same, so that an interrupted run goes on where it was. Rows of methods
and targets that are not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from tqdm import tqdm

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.files import atomic, write_json
from apt_edge.tables import MISSING, Column, Row, markdown_table, number
from bench.build import TARGETS
from bench.cells import AS_TOKENS, FOLDED, Candidate, cell, inputs_sha256, trained, untrained
from bench.figures.resources import grouped_bars
from bench.rows import ROWS, read_list
from export.model import Export
from export.target import Target, load_target
from export.to_onnx import clips_of

TABLE, PLOT = "table.md", "activation.svg"


def run_matrix(
    candidates: Sequence[Candidate], targets: Sequence[Target], clips: Path, count: int, out: Path
) -> list[Row]:
    """Fill every cell that is missing in `out`/rows.json, then write `table.md` and `activation.svg` of all beside it.

    Args:
        candidates: the columns.
        targets: the rows.
        clips: list of real videos.
        count: how many of them parity is measured on.
        out: the directory.

    Returns:
        One row a cell, in the order in which they were first made.

    Raises:
        ConfigError: two candidates have one name, or APT and VPT-deep have different prompts.
    """
    _check(candidates)
    path = out / ROWS
    known = {
        (row["method"], row["target"]): row for row in (read_list(path, f"remove {path}") if path.is_file() else [])
    }
    frames: dict[ClipSpec, np.ndarray] = {}
    with tqdm(total=len(candidates) * len(targets), desc="matrix", unit="cell", disable=None) as bar:
        for candidate in candidates:
            if candidate.clip not in frames:
                frames[candidate.clip] = clips_of(clips, candidate.clip, count)
            own, model = frames[candidate.clip], None
            for target in targets:
                bar.set_postfix_str(f"{candidate.name}, {target.name}")
                digest, key = inputs_sha256(candidate, target, own), (candidate.name, target.name)
                if known.get(key, {}).get("inputs_sha256") != digest or "refused" in known[key]:
                    # One export a column: its targets share the trace, the reference and the calibration.
                    model = model or Export(
                        candidate.make(), frames=own, clip=candidate.clip, labels=candidate.labels, facts={}
                    )
                    known[key] = {**cell(candidate, model, target), "inputs_sha256": digest}
                    write_json(path, list(known.values()))
                bar.update()
    rows = list(known.values())
    write_json(path, rows)
    texts = {TABLE: tables(rows)}
    if memory := activation(rows):
        texts[PLOT] = grouped_bars(memory, "activation memory of the compiled engine, MB")
    for name, text in texts.items():
        with atomic(out / name) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    return rows


def _check(candidates: Iterable[Candidate]) -> None:
    named: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.name in named:
            raise ConfigError(f"two models are {candidate.name}", fix="give one finished run a method")
        named[candidate.name] = candidate
    if {"apt", AS_TOKENS} <= named.keys() and named["apt"].prompts != named[AS_TOKENS].prompts:
        raise ConfigError(
            "APT and VPT-deep have different prompts, so that their memory cannot be compared",
            found=f"prompts of each block {dict(named['apt'].prompts)} and {dict(named[AS_TOKENS].prompts)}",
            fix="give runs with equal prompts in the same blocks",
        )


def _numerics(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return "refused"
    chosen = str(row["numerics"])
    return chosen if row["precision"] in chosen else f"{row['precision']} graph, {chosen} by flag"


def _of(found: str, total: str) -> Column:
    return lambda row: MISSING if row.get(found) is None or not row[total] else f"{row[found]}/{row[total]}"


def _scaled(key: str, unit: float, form: str) -> Column:
    return lambda row: MISSING if not row.get(key) else format(row[key] / unit, form)


QUANTITIES: dict[str, Column] = {
    "Numerics": _numerics,
    "Parity: largest |logit difference| to PyTorch in float32": number("max_abs", ".1e"),
    "Parity: divergence of the class probabilities, nats": number("kl", ".1e"),
    "Parity: first label equal": number("top1_agreement", ".1%"),
    "Fused attentions in the compiled engine": _of("fused_attention", "attention"),
    "Prompt constants found by name in the compiled engine": _of("prompt_constants", "constants"),
    "Activation memory, MB": _scaled("activation_bytes", 1e6, ".2f"),
    "GMACs of the graph": number("gmacs", ".4g"),
    "ONNX file, MB": _scaled("onnx_bytes", 1e6, ".2f"),
    "Prompt constants in the ONNX file, kB": _scaled("prompt_bytes", 1e3, ",.1f"),
}


def tables(rows: list[Row]) -> str:
    """One table a quantity, targets down and methods across; then APT's memory against VPT-deep's."""
    parts = [f"# Export matrix\n\n{_head(rows)}"]
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    for title, column in QUANTITIES.items():
        body = [
            {"target": target, **{str(row["method"]): column(row) for row in rows if row["target"] == target}}
            for target in dict.fromkeys(row["target"] for row in rows)
        ]
        columns: dict[str, Column] = {name: _text(name) for name in ["target", *methods]}
        parts.append(f"## {title}\n\n{markdown_table(body, columns)}")
    if pairs := activation_pairs(rows):
        table = markdown_table(pairs, PAIR_COLUMNS)
        parts.append(f"## Activation memory, MB, APT against VPT at equal prompts\n\n{_claim(pairs)}\n\n{table}")
    if refused := [row for row in rows if "refused" in row]:
        reasons = [f"* {row['method']} for {row['target']}: {' '.join(row['refused'].split())}" for row in refused]
        parts.append("\n".join(["## Refused", "", *reasons]))
    return "\n\n".join(parts)


def _text(name: str) -> Column:
    return lambda row: str(row[name])


def _head(rows: list[Row]) -> str:
    done = [row for row in rows if "refused" not in row]
    compilers = sorted({row["compiler"] for row in done if row["compiler"]})
    return fill(
        f"Backbone {', '.join(dict.fromkeys(row['backbone'] for row in rows))}; parity on "
        f"{max((row['clips'] for row in done), default=0)} real clips, in ONNX Runtime on a CPU. Compiled with "
        f"{', '.join(compilers) or 'nothing'}, without a GPU: fusion and memory are what the compiler states, nothing "
        "was executed; memory is tensors that live at the same time and the compiler's own scratch. A dash: the target "
        "has no compile gate, or the method no prompt constants. GMACs count products and LayerNorm operators; opset "
        "13 (jetson-jp5) has no such operator.",
        width=120,
    )


def activation(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Activation memory in MB by target and method, where a compiler tells it."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("activation_bytes"):
            found.setdefault(row["target"], {})[row["method"]] = row["activation_bytes"] / 1e6
    return found


def activation_pairs(rows: list[Row]) -> list[Row]:
    """APT's activation memory in MB and VPT-deep's in both forms at equal prompts, one row a target."""
    prompts = {(row["target"], row["method"]): (row.get("backbone"), row.get("prompts")) for row in rows}
    pairs: list[Row] = []
    for target, memory in activation(rows).items():
        own = {name: size for name, size in memory.items() if prompts[target, name] == prompts.get((target, "apt"))}
        if {"apt", AS_TOKENS} <= own.keys():
            pairs.append({"target": target, "apt": own["apt"], "tokens": own[AS_TOKENS], "folded": own.get(FOLDED)})
    return pairs


PAIR_COLUMNS: dict[str, Column] = {
    "target": lambda row: str(row["target"]),
    "apt": number("apt", ".3f"),
    AS_TOKENS: number("tokens", ".3f"),
    "apt / as tokens": lambda row: f"{row['apt'] / row['tokens']:.3f}",
    "apt below": lambda row: "yes" if row["apt"] < row["tokens"] else "no",
    FOLDED: number("folded", ".3f"),
    "apt / folded": lambda row: MISSING if row["folded"] is None else f"{row['apt'] / row['folded']:.3f}",
}


def _claim(pairs: list[Row]) -> str:
    below = sum(pair["apt"] < pair["tokens"] for pair in pairs)
    text = f"APT needs less than VPT-deep as tokens for {below} of {len(pairs)} targets."
    if folded := [pair for pair in pairs if pair["folded"] is not None]:
        equal = sum(pair["apt"] == pair["folded"] for pair in folded)
        text += f" Folded VPT-deep needs exactly as much as APT for {equal} of {len(folded)}."
    return text


def check(rows: list[Row]) -> None:
    """Raises GateError when a cell was refused, or APT does not need less activation memory than VPT-deep as tokens.

    Says so when there is no pair of the two to compare.
    """
    if refused := [f"{row['method']} for {row['target']}" for row in rows if "refused" in row]:
        raise GateError(
            f"{len(refused)} of {len(rows)} exports do not pass", found=", ".join(refused), fix=f"see {TABLE}"
        )
    pairs = activation_pairs(rows)
    if not pairs:
        print(
            f"no pair to compare: the claim about memory needs apt and {AS_TOKENS}, compiled for one target with equal "
            "prompts",
            file=sys.stderr,
        )
    if above := [pair for pair in pairs if pair["apt"] >= pair["tokens"]]:
        raise GateError(
            "APT does not need less activation memory than VPT-deep as tokens at equal prompts",
            found="; ".join(f"{pair['target']}: {pair['apt']:.3f} against {pair['tokens']:.3f} MB" for pair in above),
            fix="look for what the compiler materialises: compare the layers of both engines",
        )


def main() -> None:
    """Export every method for every target, prove each, and write one table."""
    parser = argparse.ArgumentParser(prog="bench.matrix", description=main.__doc__)
    parser.add_argument("runs", type=Path, nargs="*", help="finished runs of train.tune, one a method")
    parser.add_argument("--size", help="instead of runs: random weights of this backbone size")
    parser.add_argument("--tokens", type=int, default=400, help="prompts a block, with --size (default 400)")
    parser.add_argument("--classes", type=int, default=174, help="classes, with --size (default 174)")
    parser.add_argument("--clips", type=Path, required=True, help="list of videos for parity and calibration")
    parser.add_argument("--count", type=int, default=32, help="how many of them to run (default 32)")
    parser.add_argument("--target", type=Path, nargs="+", default=sorted(TARGETS.glob("*.toml")),
                        help="pages of targets (default: all in export/targets)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help=f"directory for {ROWS}, {TABLE} and {PLOT}")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    if bool(args.runs) == bool(args.size):
        parser.error("give either finished runs or --size")
    candidates = list(untrained(args.size, args.tokens, args.classes) if args.size else trained(args.runs))
    targets = [load_target(path) for path in args.target]
    rows = run_matrix(candidates, targets, args.clips, args.count, args.out)
    print(json.dumps(rows, indent=2) if args.json else tables(rows))
    check(rows)


if __name__ == "__main__":
    run_tool(main, "bench.matrix")
