"""What trtexec of TensorRT 8.5 to 11 wrote: log, times, layers, outputs. Needs numpy alone. Times are milliseconds.

Forms: NVIDIA/TensorRT, samples/common/sampleReporting.cpp and logging.h of release/8.5 to v11.1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import GateError, ModelError
from apt_edge.runtime.timing import percentile

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
# Up to this version a build may leave attention unfused: JetPack 5 is not expected to fuse, JetPack 6 not sure to.
LENIENT = (10, 3)


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


def summarise_times(times: np.ndarray, percentiles: Iterable[float] = (50, 90, 95, 99)) -> dict[str, float]:
    """The numbers of a metric line of the log, from all its times, with `cv` and `n`."""
    numbers = {"min": np.min(times), "max": np.max(times), "mean": np.mean(times), "median": np.median(times)}
    numbers |= {f"p{p:g}": percentile(times, p) for p in percentiles}
    numbers["cv"] = np.std(times) / (numbers["mean"] or 1)  # transfers that were left out take no time
    return {name: float(number) for name, number in numbers.items()} | {"n": len(times)}


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


def check_layers(layers: list[Layer], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the engine has the types and the fused attentions that the target asks for.

    Args:
        layers: of the engine that was built on the device.
        facts: the sidecar.

    Returns:
        `layers`, `compute_layers`, `precision` (type -> number of compute layers), `fused_attention`, `attention`,
        `reformats`, and `warnings` for the reader.

    Raises:
        GateError: half precision was asked for and most compute layers are float32, or, in versions that are expected
            to fuse, an attention is not fused; or the file has only names, so that neither can be told.
    """
    version = str(facts["target"]["version"])
    asked = (facts["target"] if version.startswith("8.") else facts)["precision"]  # 8 has float32 graphs
    half = asked in ("float16", "bfloat16")
    if half and not any(layer.detailed for layer in layers):
        raise GateError(
            "the types of the engine's layers are not known",
            found=f"{len(layers)} layers, with names alone",
            fix="build again with --profilingVerbosity=detailed",
        )
    compute = [layer for layer in layers if layer.compute and not layer.reformat]
    types = Counter(layer.precision or "unknown" for layer in compute)
    report: dict[str, Any] = {
        "layers": len(layers),
        "compute_layers": len(compute),
        "precision": dict(types.most_common()),
        "fused_attention": sum(layer.fused_attention for layer in layers),
        "attention": facts["attention"],
        "reformats": sum(layer.reformat for layer in layers),
        "warnings": [],
    }
    if half:
        _check_types(report, types, asked, version)
        _check_fusion(report, layers, version)
    return report


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


def _check_types(report: dict[str, Any], types: Mapping[str, int], asked: str, version: str) -> None:
    known = sum(count for name, count in types.items() if name != "unknown")
    if not known:
        report["warnings"].append(f"TensorRT {version} tells the type of no compute layer: {asked} is not proven")
    elif 2 * types.get("float32", 0) > known:
        raise GateError(
            f"{asked} was asked for, and the engine computes in float32",
            found=f"{types['float32']} of {known} compute layers in float32",
            fix="build model.onnx with build.sh as it is; does this device have fast half precision?"
            if version.startswith("8.")
            else "build the model.onnx of this export with build.sh, which makes the graph's types binding",
        )


def _check_fusion(report: dict[str, Any], layers: list[Layer], version: str) -> None:
    fused, attention = report["fused_attention"], report["attention"]
    if fused >= attention:
        return
    wrong = f"{fused} of {attention} attentions are fused"
    if tuple(int(part) for part in version.split(".")[:2]) <= LENIENT:
        report["warnings"].append(f"{wrong}: TensorRT {version} may do without, which costs time and memory")
        return
    raise GateError(
        wrong,
        found="layers " + ", ".join(layer.name for layer in layers[:40]),
        fix="export again for this device's TensorRT, then build with build.sh; report it if that does not help",
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
