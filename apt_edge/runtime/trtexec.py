"""What trtexec of TensorRT 8.5 to 11 wrote: log, times, layers, outputs. Needs numpy alone. Times are milliseconds.

Forms: NVIDIA/TensorRT, samples/common/sampleReporting.cpp and logging.h of release/8.5 to v11.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import ModelError

# `_gemm_mha_v2_*` in TensorRT-RTX 1.7 and TensorRT 10 and 11; kernel names are no API, so other spellings count too.
FUSED = re.compile(r"(^|_)f?mha", re.IGNORECASE)
COMPUTE = re.compile(r"gemm|mat_?mul|matrix_?multiply|conv|(^|_)f?mha", re.IGNORECASE)
# Spellings in `Format/Datatype`; BFLOAT16 contains FLOAT, and UINT8 INT8: the longer one stands first.
PRECISIONS = {
    "bfloat16": re.compile("BFLOAT16|BF16", re.IGNORECASE),
    "float16": re.compile("FP16|HALF", re.IGNORECASE),
    "float32": re.compile("FP32|FLOAT", re.IGNORECASE),
    "uint8": re.compile("UINT8", re.IGNORECASE),
    "int8": re.compile("INT8", re.IGNORECASE),
    "int32": re.compile("INT32", re.IGNORECASE),
    "int64": re.compile("INT64", re.IGNORECASE),
    "bool": re.compile("BOOL", re.IGNORECASE),
}
METRICS = {
    "Latency": "latency",
    "Enqueue Time": "enqueue",
    "H2D Latency": "h2d",
    "GPU Compute Time": "compute",
    "D2H Latency": "d2h",
    "End-to-End Host Latency": "end_to_end",
}


@dataclass(frozen=True)
class Log:
    """One run of trtexec.

    Attributes:
        version: of TensorRT, as `10.3.0`; empty when the log does not say.
        outcome: `passed`, `failed`, or `incomplete` when the log ends before either.
        throughput: runs a second; None without a measurement.
        metrics: for `latency`, `enqueue`, `h2d`, `compute`, `d2h` (and `end_to_end` of old versions) the numbers `min`,
            `max`, `mean`, `median` and `p90`, ... in ms.
        walltime_s, compute_s: host time of all measured runs, and the GPU's.
        unstable: coefficient of variation of the GPU's time, a fraction, when trtexec warned about it.
        bound_by: `enqueue`, `h2d`, `d2h`: what trtexec warned may bound the throughput instead of the GPU.
        activation_bytes: for the activations of the engine that was built, on the device; None when it is not told.
        errors: lines of level E.
    """

    version: str
    outcome: str
    throughput: float | None
    metrics: dict[str, dict[str, float]]
    walltime_s: float | None
    compute_s: float | None
    unstable: float | None
    bound_by: tuple[str, ...]
    activation_bytes: int | None
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: as the engine calls it.
        precision: data type of its first output whose type is known; empty when none is.
        fused_attention: whether it is a whole attention.
        compute: whether it is a matrix product, a convolution or an attention.
        reformat: whether it only changes the layout or type of a tensor.
        detailed: whether more than the name is known.
    """

    name: str
    precision: str
    fused_attention: bool
    compute: bool
    reformat: bool
    detailed: bool


def parse_version(text: str) -> str:
    """`major.minor.patch` of a log, which says `[TensorRT v8502]` or, from 10.0 on, `[TensorRT v100300]`; or empty."""
    match = re.search(r"\[TensorRT v(\d+)\]", text)
    if match is None:
        return ""
    number = int(match[1])
    base = 100 if number >= 100_000 else 10
    return f"{number // 100 // base}.{number // 100 % base}.{number % 100}"


def parse_log(text: str) -> Log:
    """Read what trtexec printed; parts that are not there are None or empty."""
    metrics = {
        METRICS[match[1]]: _numbers(match[2])
        for match in re.finditer(rf"\] ({'|'.join(METRICS)}): (min = .*)$", text, re.MULTILINE)
    }
    outcomes = re.findall(r"^&&&& (PASSED|FAILED)", text, re.MULTILINE)
    activations = re.findall(r"\] Total Activation Memory: (\d+)(?: bytes)?$", text, re.MULTILINE)
    unstable = _number("GPU compute time is unstable, with coefficient of variance = ", "%", text)
    bounds = {
        "enqueue": "may be bound by Enqueue Time",
        "h2d": "may be bound by host-to-device transfers",
        "d2h": "may be bound by device-to-host transfers",
    }
    return Log(
        version=parse_version(text),
        outcome=outcomes[-1].lower() if outcomes else "incomplete",
        throughput=_number(r"\] Throughput: ", " qps", text),
        metrics=metrics,
        walltime_s=_number(r"\] Total Host Walltime: ", " s", text),
        compute_s=_number(r"\] Total GPU Compute Time: ", " s", text),
        unstable=None if unstable is None else unstable / 100,
        bound_by=tuple(name for name, words in bounds.items() if words in text),
        activation_bytes=int(activations[-1]) if activations else None,
        errors=tuple(match[1] for match in re.finditer(r"\[E\] (.+)$", text, re.MULTILINE)),
    )


def read_times(path: str | Path) -> dict[str, np.ndarray]:
    """Times of every measured run from `--exportTimes`: `latency`, `compute`, `h2d`, `d2h`, each `[runs]` float64.

    Host time to enqueue is in the log alone: the file has begin and end since the start, with six digits.

    Raises:
        ModelError: the file is damaged or has no runs.
    """
    runs = _load(path)
    try:
        times = {
            key: np.array([run[f"{key}Ms"] for run in runs], np.float64) for key in ("latency", "compute", "h2d", "d2h")
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    if not runs:
        raise ModelError(f"{path} has no measured run", fix="measure again, for longer")
    return times


def read_layers(path: str | Path) -> list[Layer]:
    """Layers from `--exportLayerInfo`: a list, or an object with `Layers`, of objects or of names.

    Raises:
        ModelError: the file is damaged.
    """
    data = _load(path)
    try:
        return [_layer(entry) for entry in (data["Layers"] if isinstance(data, dict) else data)]
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def read_outputs(path: str | Path) -> dict[str, np.ndarray]:
    """Outputs of the last run from `--exportOutput`, by name, float32 in the shape that the file gives.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        return {
            entry["name"]: np.array(entry["values"], np.float32).reshape(
                [int(size) for size in entry["dimensions"].split("x") if size]
            )
            for entry in _load(path)
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from None


def _layer(entry: Any) -> Layer:
    detail: Mapping[str, Any] = {"Name": entry} if isinstance(entry, str) else entry
    name, kind, tactic = detail["Name"], detail.get("LayerType", ""), detail.get("TacticName", "")
    opaque = "ForeignNode" in name  # a whole region of the graph: its output says nothing about what is inside
    formats = [] if opaque else [tensor.get("Format/Datatype", "") for tensor in detail.get("Outputs", [])]
    types = (precision for text in formats for precision, form in PRECISIONS.items() if form.search(text))
    return Layer(
        name=name,
        precision=next(types, ""),
        fused_attention=any(FUSED.search(text) for text in (name, tactic)),
        compute=any(COMPUTE.search(text) for text in (name, kind, tactic)),
        reformat=kind == "Reformat" or name.startswith("Reformatting CopyNode"),
        detailed=not isinstance(entry, str),
    )


def _numbers(line: str) -> dict[str, float]:
    """`min = 1.5 ms, ..., percentile(99%) = 2 ms` -> {"min": 1.5, ..., "p99": 2.0}."""
    pairs = re.findall(r"(min|max|mean|median|percentile)(?:\((\S+?)%\))? = (\S+) ms", line)
    return {f"p{percent}" if percent else name: float(value) for name, percent, value in pairs}


def _number(before: str, after: str, text: str) -> float | None:
    match = re.search(rf"{before}([\d.e+-]+|inf|-?nan){after}", text)
    return None if match is None else float(match[1])


def _load(path: str | Path) -> Any:
    """JSON as trtexec writes it: numbers that are not finite are spelt as C++ does, which JSON does not know."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        text = re.sub(r"(?<=[\s\[,])-?nan(?=[\s\],])", "NaN", text)
        return json.loads(re.sub(r"(?<=[\s\[,])(-?)inf(?=[\s\],])", r"\1Infinity", text))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", fix="run trtexec again with the line that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is not what trtexec writes", found=repr(error), fix="run the line that writes it again")
