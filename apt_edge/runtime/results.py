"""`results.json`: all that a device found out about a bundle, in one file to bring back. Needs numpy alone.

Form `apt-edge results`, version 1. Times are milliseconds; what is not known is null.

    schema, version   "apt-edge results", 1
    created           UTC, ISO 8601
    target            {name, runtime, version}: what the bundle was made for
    model             {onnx_sha256, engine_sha256, engine_bytes, pack_sha256, backbone, method, form, precision,
                      attention, prompt_mode, prompt_tokens, trainable_parameters, clip}; engine_*: TensorRT's alone
    machine           apt_edge.runtime.machine.machine(), and `tensorrt`: the version that trtexec printed
    parity            the self-test's report (apt_edge.runtime.selftest.judge): {passed, failures, tolerance, max_abs,
                      mean_abs, kl, top1_agreement, max_logit, clips, onnx_sha256, engine_sha256, session}; null when
                      there is none of this graph and engine
    times             row name -> {min, max, mean, median, p50, p90, p95, p99, cv, n, throughput, batch, warnings,
                      session, energy, memory, times_ms}. `throughput` counts runs a second, `times_ms` holds every run
                      in its order, `session` is {name, threads}, null threads being all cores.
                      `energy` is {joules_per_clip, source}, of the whole device (apt_edge.runtime.energy); null where
                      nothing meters it, and for engines, which trtexec runs.
                      `memory` is {rss_mb, activation_mb, gpu_mb}: what opening the session and a run added to the
                      resident memory of the process at its peak; an engine's activations, as its builder told them;
                      null, as no runtime here tells it. Files of before these two keys were known lack them
                      Rows of an engine: `compute` (kernels alone) and `with_transfers` (host to host, copies included).
                      Row of ONNX Runtime and OpenVINO: `inference` (host arrays to host arrays)
    layers            of an engine, apt_edge.runtime.engine.check_layers; null when it failed or is not there
    failed            [{step, what, gate}]: steps that were not run, or failed; `gate` says that a proof failed. Empty
                      when everything is there and in order
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import AptEdgeError, GateError, raise_failed
from apt_edge.files import write_json
from apt_edge.runtime import memory
from apt_edge.runtime.bundle import load_bundle
from apt_edge.runtime.energy import energy_per_run, find_meter
from apt_edge.runtime.engine import check_layers
from apt_edge.runtime.machine import machine
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.selftest import REPORT, golden, subject
from apt_edge.runtime.sessions import open_session, session_name
from apt_edge.runtime.statistics import summarise
from apt_edge.runtime.timing import Run, measure_warm
from apt_edge.runtime.trtexec import parse_log, read_layers, read_times

SCHEMA, VERSION = "apt-edge results", 1
RESULTS, TIMES, LAYERS, ENGINE_LOG = "results.json", "times.json", "layers.json", "engine.log"
WARM_UP_MS, ENERGY_SECONDS = 500, 10
PERCENTILES = (50, 90, 95, 99)
# Row -> log, file of times, and which of its times: all as the scripts of a bundle name them.
ENGINE_ROWS = {
    "compute": ("measure.log", TIMES, "compute"),
    "with_transfers": ("measure-transfers.log", "times-transfers.json", "latency"),
}
FACTS = (
    *("onnx_sha256", "pack_sha256", "backbone", "method", "form", "precision", "attention"),
    *("prompt_mode", "prompt_tokens", "trainable_parameters", "clip"),
)
Failed = list[dict[str, Any]]


def measure(model: ModelDir, seconds: float = 30, threads: int | None = None) -> dict[str, Any]:
    """Time the first golden clip in the target's runtime, after 500 ms of warm-up, and write `times.json`.

    Args:
        model: a model for ONNX Runtime or OpenVINO.
        seconds: length of the measurement; at least ten runs are made. Where the machine meters energy, runs go on for
            ten seconds more, or as many as these.
        threads: of the runtime; all cores when None.

    Returns:
        `onnx_sha256`, `session` (name and threads), `energy`, `memory` and `times_ms`.
    """
    name, frames_TSSC = session_name(model), golden(model)[0][0]
    with suppress(ImportError):  # its libraries are not the model's memory; open_session says when it is not installed
        import_module(name.partition("-")[0])
    before = memory.peak() if memory.reset_peak() else None  # what is resident now
    session = open_session(model, threads)
    feeds = model.feeds(session.inputs, frames_TSSC)

    def run() -> None:
        session.run(feeds)

    run()
    after = memory.peak()
    times = measure_warm(run, seconds, WARM_UP_MS)
    data = {
        "onnx_sha256": model.facts["onnx_sha256"],
        "session": {"name": name, "threads": threads},
        "energy": _energy(run, min(seconds, ENERGY_SECONDS), gpu="cuda" in name),
        "memory": _memory(rss_mb=None if before is None or after is None else (after - before) / 1e6),
        "times_ms": times.tolist(),
    }
    write_json(model.path / TIMES, data)
    return data


def collect(path: str | Path) -> dict[str, Any]:
    """Gather what the scripts of a bundle left behind, and write `results.json`; the module's docstring has its form.

    Raises:
        ModelError: the bundle is not the one that was packed.
    """
    model = load_bundle(path)
    target, engine = model.target, model.engine
    failed: Failed = []
    found: dict[str, Any] = {"machine": machine(), "parity": _parity(model, failed), "times": {}, "layers": None}
    if target["runtime"] == "tensorrt":
        found["layers"] = _read("layers", failed, lambda: check_layers(read_layers(model.path / LAYERS), model.facts))
        found["machine"]["tensorrt"] = None
        for name in ENGINE_ROWS:
            found["times"][name] = _read(name, failed, partial(_engine_row, model, name, found["machine"]))
    else:
        found["times"]["inference"] = _read("inference", failed, lambda: _session_row(model))
    described = {key: model.facts.get(key) for key in FACTS} | {
        "engine_sha256": subject(model)["engine_sha256"],
        "engine_bytes": engine.stat().st_size if engine.is_file() else None,
    }
    results = {
        "schema": SCHEMA,
        "version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "target": {key: target[key] for key in ("name", "runtime", "version")},
        "model": described,
        **found,
        "failed": failed,
    }
    write_json(model.path / RESULTS, results)
    return results


def complain(results: dict[str, Any]) -> None:
    """Raises GateError when results tell of a failed proof, AptEdgeError when steps are missing."""
    fix = "run build.sh (where there is one), selftest.sh and measure.sh in this order, and read their logs"
    raise_failed(results["failed"], RESULTS, fix)


def _energy(run: Run, seconds: float, gpu: bool) -> dict[str, Any] | None:
    """Of a run of one clip, running for `seconds`; None where nothing meters it."""
    meter = find_meter(gpu)
    if meter is None:
        return None
    with suppress(OSError):  # it meters no longer: the times are worth keeping
        joules = energy_per_run({"model": run}, meter, seconds)["model"]
        return None if joules is None else {"joules_per_clip": joules, "source": meter.source}
    return None


def _memory(rss_mb: float | None = None, activation_mb: float | None = None) -> dict[str, float | None]:
    return {"rss_mb": rss_mb, "activation_mb": activation_mb, "gpu_mb": None}


def _read(step: str, failed: Failed, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError as error:
        what = f"not run: there is no {Path(error.filename).name}"
        failed.append({"step": step, "what": what, "gate": False})
    except (KeyError, TypeError, ValueError) as error:  # JSON that is cut or of another form
        failed.append({"step": step, "what": f"what it left behind is damaged: {error!r}", "gate": False})
    except AptEdgeError as error:
        what = f"{error.wrong} ({error.found})" if error.found else error.wrong
        failed.append({"step": step, "what": what, "gate": isinstance(error, GateError)})
    return None


def _parity(model: ModelDir, failed: Failed) -> dict[str, Any] | None:
    report = _read("selftest", failed, partial(_selftest_report, model))
    if report and not report["passed"]:
        failed.append({"step": "selftest", "what": "; ".join(report["failures"]), "gate": True})
    return report


def _selftest_report(model: ModelDir) -> dict[str, Any]:
    report = json.loads((model.path / REPORT).read_text(encoding="utf-8"))
    if any(report[key] != value for key, value in subject(model).items()):
        raise AptEdgeError("not run with this graph and engine")
    return report


def _engine_row(model: ModelDir, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    log_name, times_name, which = ENGINE_ROWS[name]
    log = parse_log((model.path / log_name).read_text(encoding="utf-8", errors="replace"))
    facts["tensorrt"] = log.version or facts["tensorrt"]
    if log.outcome != "passed":
        raise AptEdgeError(f"trtexec {log.outcome}, see {log_name}", found="; ".join(log.errors[:3]))
    times = read_times(model.path / times_name)[which]
    warnings = [f"may be bound by {what}" for what in log.bound_by]
    if log.unstable is not None:
        warnings.append(f"unstable: coefficient of variation {log.unstable:.1%}")
    profile = model.facts["inputs"]["clip"]["profile"]
    batch, ran = profile[1][0] if profile else 1, {"name": "trtexec", "threads": None}
    costs = {"energy": None, "memory": _memory(activation_mb=_activation_mb(model))}
    return _row(times, batch, log.throughput, warnings, ran, costs)


def _activation_mb(model: ModelDir) -> float | None:
    """Of the engine, as the log of its build tells; None where there is no such log, or it does not tell."""
    path = model.path / ENGINE_LOG
    log = parse_log(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    if log is None or log.outcome != "passed" or log.activation_bytes is None:
        return None
    return log.activation_bytes / 1e6


def _session_row(model: ModelDir) -> dict[str, Any]:
    data = json.loads((model.path / TIMES).read_text(encoding="utf-8"))
    if data["onnx_sha256"] != model.facts["onnx_sha256"]:
        raise AptEdgeError("not run with this graph")
    times = np.array(data["times_ms"])
    costs = {key: data.get(key) for key in ("energy", "memory")}
    return _row(times, 1, 1e3 / float(times.mean()), [], data["session"], costs)


def _row(
    times: np.ndarray,
    batch: int,
    throughput: float | None,
    warnings: list[str],
    session: dict[str, Any],
    costs: dict[str, Any],
) -> dict[str, Any]:
    numbers: dict[str, Any] = dict(summarise(times, PERCENTILES))
    numbers |= {"throughput": throughput, "batch": batch, "warnings": warnings, "session": session}
    return numbers | costs | {"times_ms": [round(float(ms), 4) for ms in times]}
