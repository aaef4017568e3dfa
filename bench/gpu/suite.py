"""Everything that a GPU without TensorRT can say, in one run of eight minutes: `python -m bench.gpu.suite --out DIR`.

`bench/gpu_suite.sh` calls it. Needs numpy, safetensors and, but for the part `runtime`, PyTorch; no network, no videos,
nothing to install. Each part runs in a process of its own within its own budget: one that crashes or overruns loses
what it had not written yet, and nothing else. The results are `PyTorch on <GPU>`, never those of another runtime. Rows
of the part `runtime` alone name the CUDA package that made the calls, or what ran the engine that was given.

It was written without a GPU: a CPU has run every part of it but graphs, events and NVIDIA's counters
(`tests/bench/gpu/test_cuda.py`, skipped there). The budgets are estimates.

`results.json`, form `apt-edge rows`, version 1; times are milliseconds, what is not known is null:

    schema, version   "apt-edge rows", 1
    created           UTC, ISO 8601
    rows              latency: rows as `bench.form.Measured` says
    parity            half precision against float32 (`bench.gpu.parity`)
    steps             training steps (`bench.gpu.steps`)
    switch            prompt switches (`bench.gpu.switch`)
    runtime           pinned memory, graphs and pointers without PyTorch (`bench.gpu.runtime`); older files lack it
    failed            [{step, what, gate}]: what was not measured, or proofs that failed (`gate`)
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import datetime, timezone
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from apt_edge.errors import AptEdgeError, ConfigError, MissingDependency, raise_failed, run_tool
from apt_edge.files import scratch, write_json
from apt_edge.tables import MISSING, Column, markdown_table, number
from bench.gpu.record import Record, Settings
from bench.gpu.rounds import LEAST_ROUNDS
from bench.numbers import interval

SCHEMA, VERSION = "apt-edge rows", 1
RESULTS = "results.json"
# Part -> seconds after which it is ended, its start included.
BUDGETS = {"latency": 190, "parity": 75, "steps": 110, "switch": 50, "runtime": 30}
MARGIN = 10  # seconds of a budget: parts plan to be done so long before their end
LISTS = ("rows", "parity", "steps", "switch", "runtime", "failed")

COLUMNS: dict[str, Column] = {
    "suite": lambda row: str(row.get("suite") or row["size"]),
    "method": lambda row: str(row["method"]),
    "contender": lambda row: str(row["contender"]),
    "session": lambda row: str(row["session"]),
    "batch": number("batch", "d"),
    "median ms": number("latency_ms_median", ".4g"),
    "p90 ms": number("latency_ms_p90", ".4g"),
    "p99 ms": number("latency_ms_p99", ".4g"),
    "time ratio [95 %]": interval,
    "GMAC ratio": number("gmacs_ratio", ".3f"),
    "peak MB": lambda row: _megabytes(row),
    "switch ms": number("switch_ms", ".3g"),
}
PARITY_COLUMNS: dict[str, Column] = {
    "size": lambda row: str(row["size"]),
    "contender": lambda row: str(row["contender"]),
    "precision": lambda row: str(row["precision"]),
    "max dlogit": number("max_abs", ".1e"),
    "largest logit": number("max_logit", ".3g"),
    "first label equal": number("top1_agreement", ".1%"),
    "prompts": lambda row: str(row["prompts"]),
}


def run_suite(settings: Settings, parts: list[str], out: Path) -> dict[str, Any]:
    """Run parts one after the other; `results.json` in `out` is written after each.

    Returns:
        What the file holds; the module's docstring has its form.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: dict[str, Any] = {"schema": SCHEMA, "version": VERSION, "created": created}
    results |= {name: [] for name in LISTS}
    write_json(out / RESULTS, results)
    with scratch(out / RESULTS) as folder:
        for part in parts:
            found = run_part(part, settings, folder / f"{part}.json", BUDGETS[part])
            for name in LISTS:
                results[name] += found.get(name, [])
            write_json(out / RESULTS, results)
    return results


def run_part(part: str, settings: Settings, path: Path, budget: float) -> dict[str, Any]:
    """Run one part in a process of its own; returns what it left in `path`, and how it ended unless all went well."""
    print(f"{part}: at most {budget:.0f} s", file=sys.stderr, flush=True)
    begin = time.monotonic()
    process = get_context("spawn").Process(target=_part, args=(part, settings, path, begin + budget - MARGIN))
    process.start()
    try:
        process.join(budget)
    finally:
        overran = process.is_alive()
        process.kill()
        process.join()
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"failed": []}
    if overran or process.exitcode:
        what = f"ended after its {budget:.0f} s" if overran else f"ended with exit code {process.exitcode}"
        found["failed"].append({"step": part, "what": f"{what}; what it had written is kept", "gate": False})
    print(f"{part}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return found


def _part(part: str, settings: Settings, path: Path, end: float) -> None:
    import_module(f"bench.gpu.{part}").run(settings, Record(path, end))


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown tables."""
    kinds = {
        "latency": ("rows", COLUMNS),
        "parity": ("parity", PARITY_COLUMNS),
        "training steps": ("steps", COLUMNS),
        "prompt switches": ("switch", COLUMNS),
        "the runtime's own CUDA calls": ("runtime", COLUMNS),
    }
    return "\n\n".join(
        f"{title}\n\n{markdown_table(results[kind], columns)}"
        for title, (kind, columns) in kinds.items()
        if results[kind]
    )


def complain(results: dict[str, Any]) -> None:
    """Raises GateError when a proof failed, AptEdgeError when something was not measured."""
    fix = "read the messages above; --parts runs a part alone, --sizes and --tokens measure less"
    raise_failed(results["failed"], RESULTS, fix)


def _megabytes(row: Any) -> str:
    peak = row.get("peak_mb") or (row.get("memory") or {}).get("gpu_mb")
    return MISSING if peak is None else f"{peak:.4g}"


def _check_torch(device: str, sizes: list[str]) -> None:
    """Raises AptEdgeError unless PyTorch, which all parts but `runtime` need, is here and has the device."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            "these parts need PyTorch",
            found=str(error),
            fix="name a Python that has it: PYTHON=/path/to/python; --parts runtime needs none",
        ) from None
    from apt_edge.backbone.vit import SIZES

    if unknown := [size for size in sizes if size not in SIZES]:
        raise ConfigError(f"there is no backbone size {unknown[0]}", fix=f"choose --sizes of {', '.join(SIZES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise AptEdgeError(
            "the suite needs an NVIDIA GPU, and PyTorch finds none",
            found=f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}",
            fix="run it where nvidia-smi lists a GPU, with a PyTorch for CUDA; --device cpu tries the suite itself",
        )


def main() -> None:
    """Measure latency, parity, training steps, prompt switches and the runtime's CUDA calls on this machine's GPU."""
    parser = argparse.ArgumentParser(prog="bench.gpu.suite", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help=f"directory for {RESULTS}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the suite, without graphs")
    parser.add_argument("--sizes", nargs="+", default=["vit-small", "vit-base"], metavar="SIZE",
                        help="backbones, smallest first (default: vit-small vit-base)")  # fmt: skip
    parser.add_argument("--tokens", type=_positive, nargs="+", default=[100, 400, 800], metavar="N",
                        help="prompts a block (default: 100 400 800)")  # fmt: skip
    parser.add_argument("--batches", type=_positive, nargs="+", default=[1, 8], metavar="N",
                        help="clips a run (default: 1 8)")  # fmt: skip
    parser.add_argument("--rounds", type=_positive, default=200, help="timed runs of each contender, at most")
    parser.add_argument("--parts", nargs="+", choices=list(BUDGETS), default=list(BUDGETS), metavar="PART",
                        help=f"some of {', '.join(BUDGETS)} (default: all)")  # fmt: skip
    parser.add_argument("--model", type=Path, help="exported model with an engine, for the part runtime")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    if args.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {args.rounds} gives no interval: at least {LEAST_ROUNDS} do")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part under way is ended too
    if set(args.parts) != {"runtime"}:
        _check_torch(args.device, args.sizes)
    measured = tuple(args.sizes), tuple(args.tokens), tuple(args.batches)
    settings = Settings(args.device, *measured, args.rounds, args.model)
    results = run_suite(settings, args.parts, args.out)
    print(json.dumps(results, indent=2) if args.json else tables(results))
    complain(results)


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return count


if __name__ == "__main__":
    run_tool(main, "bench.gpu.suite")
