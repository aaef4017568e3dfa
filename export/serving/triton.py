"""Exported model -> models of a Triton repository: one for ONNX Runtime, and one for TensorRT's plans.

Sources: Triton's model_configuration.md and model_repository.md; the message is ModelConfig of model_config.proto.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError, ModelError
from apt_edge.files import sha256
from apt_edge.runtime.bundle import LABELS
from apt_edge.runtime.model_dir import INPUT, ONNX, OUTPUT, PROMPTS, SIDECAR, ModelDir
from export.serving.files import joined, plan_line, write_directory

CONFIG, VERSION, PLAN = "config.pbtxt", "1", "model.plan"
TYPES = {"uint8": "TYPE_UINT8", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "float32": "TYPE_FP32"}
ON_CPU = ("onnxruntime-cpu", "openvino")
TEXT = """\
{comment}
name: "{name}"
{backend}
max_batch_size: {most}
input [
{inputs}
]
output [
{outputs}
]
{batching}instance_group [ {{ count: 1 kind: {kind} }} ]
{plans}{parameters}
"""


def to_triton(
    path: str | Path, repository: str | Path, name: str | None = None, plans: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Write the models `name` (ONNX Runtime) and, for a TensorRT target, `name`_trt into a repository.

    Every input of the graph is an input of the request: prompts and head in bound mode, whose values lie in
    `prompts.safetensors` beside the configuration.

    Args:
        path: directory that `export.to_onnx` wrote.
        repository: the directory that `tritonserver --model-repository` is given; its other models stay.
        name: of the model; the target's when None.
        plans: compute capability like `8.7` to the engine for it. When empty, the engine that `export.to_engine` built
            with TensorRT; without one `1/model.plan` is left to be built, and the configuration says how.

    Returns:
        `repository`, and `models`: name to `max_batch_size`, `files` (name -> bytes) and `plans`, their capabilities.

    Raises:
        ConfigError: the model cannot be served so; AptEdgeError: a directory of that name is something else.
        ModelError: the model's files disagree.
    """
    model = ModelDir.load(path)
    name = name or model.target["name"]
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise ConfigError(f"{name!r} cannot be a model's name", fix="use letters, digits, dots, dashes and underscores")
    engines = _plans(model, plans or {})
    texts = {LABELS: joined(model.labels, "\n", "Triton")}
    files: dict[str, str | Path] = {**texts, **({PROMPTS: model.path / PROMPTS} if model.prompts else {})}
    with_onnx, with_plans = model.facts["precision"] != "bfloat16", model.target["runtime"] == "tensorrt"
    if not with_onnx and not with_plans:
        raise ConfigError("Triton's ONNX Runtime has no bfloat16", fix="export with --set precision=float16")
    written = {}
    if with_onnx:
        files_of = {**files, CONFIG: _config(model, name), f"{VERSION}/{ONNX}": model.onnx}
        written[name] = _write(model, Path(repository) / name, files_of, [])
    if with_plans:
        trt = f"{name}_trt"
        source = f"../../{name}/{VERSION}/{ONNX}" if with_onnx else ONNX
        text = _config(model, trt, {cc: f"model_{cc}.plan" for cc in engines}, plan_line(model, source, PLAN))
        copies = {f"{VERSION}/model_{cc}.plan": engine for cc, engine in engines.items()}
        written[trt] = _write(model, Path(repository) / trt, {**files, CONFIG: text, **copies}, list(engines))
    return {"repository": str(repository), "models": written}


def _write(model: ModelDir, out: Path, files: Mapping[str, str | Path], plans: Sequence[str]) -> dict[str, Any]:
    sizes = write_directory(out, CONFIG, files, VERSION)
    return {"max_batch_size": _batch(model)[0], "files": sizes, "plans": list(plans)}


def _plans(model: ModelDir, given: Mapping[str, Path]) -> dict[str, Path]:
    """Compute capability to engine."""
    entry = model.facts.get("engine")
    if given and model.target["runtime"] != "tensorrt":
        raise ConfigError(
            f"the target {model.target['name']} is not TensorRT's", fix="leave the plans out, or export for TensorRT"
        )
    for capability, plan in given.items():
        if not re.fullmatch(r"\d+\.\d", capability) or not plan.is_file():
            raise ConfigError(
                "a plan is given as the compute capability and the file, 8.7=model.engine",
                found=f"{capability}={plan}" + ("" if plan.is_file() else ", no such file"),
            )
    if given or not entry or not entry["key"]["compiler"].startswith("tensorrt ") or not model.engine.is_file():
        return dict(given)
    if sha256(model.engine) != entry["plan_sha256"]:
        raise ModelError(f"{model.engine} is not the engine that {SIDECAR} describes", fix="run export.to_engine again")
    return {entry["key"]["compute_capability"][0]: model.engine}


def _batch(model: ModelDir) -> tuple[int, str]:
    """Triton's max_batch_size and the reason: above 0 when every input and output begins with the batch's free axis."""
    inputs, outputs = model.facts["inputs"], model.facts["outputs"]
    profile = inputs[INPUT]["profile"]
    if not profile:
        return 0, "The graph takes one clip: dims are whole shapes, and Triton does not batch."
    if profile[0][0] > 1:
        raise ConfigError(
            "Triton may run a single clip, the model cannot",
            found=f"a profile that starts at {profile[0][0]} clips",
            fix="export with --set batch.min=1",
        )
    if all(port["shape"][0] is None for port in [*inputs.values(), *outputs.values()]):
        return profile[2][
            0
        ], f"Up to {profile[2][0]} clips of several requests run as one batch; dims are without its axis."
    return 0, (
        "Triton batches requests only where every input has a batch axis, and prompts and head have none: dims are "
        f"whole shapes, a request brings 1 to {profile[2][0]} clips of one task. prompts.per_row=true frees the axis."
    )


def _config(model: ModelDir, name: str, plans: Mapping[str, str] | None = None, line: str = "") -> str:
    """The text of config.pbtxt; `plans`, capability to file name, makes it that of TensorRT, `line` builds a plan."""
    target, facts = model.target, model.facts
    most, reason = _batch(model)
    said = [
        f"Exported for {target['name']}: {model.clip.frames} frames of {model.clip.size} x {model.clip.size}.",
        reason,
    ]
    if model.prompts:
        said.append(f"Values of the inputs but {INPUT} lie in {PROMPTS}: a request brings them along.")
    if plans is not None and not plans:
        said.append(f"In {VERSION}/, {PLAN} is built on the device, by the TensorRT of its tritonserver:")
    comment = [f"# {row}" for text in said for row in textwrap.wrap(text, 116)]
    comment += [f"#   {line}"] if plans is not None and not plans else []
    filenames = [
        f"cc_model_filenames {{ key: {_text(cc)} value: {_text(file)} }}\n" for cc, file in (plans or {}).items()
    ]
    told = {"apt_edge.clip": model.clip.to_json(), "apt_edge.onnx_sha256": facts["onnx_sha256"]}
    return TEXT.format(
        comment="\n".join(comment),
        name=name,
        backend='backend: "onnxruntime"' if plans is None else 'platform: "tensorrt_plan"',
        most=most,
        inputs=",\n".join(_port(port_name, port, most > 0) for port_name, port in facts["inputs"].items()),
        outputs=",\n".join(_port(port_name, port, most > 0) for port_name, port in facts["outputs"].items()),
        batching="dynamic_batching { }\n" if most > 1 else "",
        kind="KIND_CPU" if target["runtime"] in ON_CPU else "KIND_GPU",
        plans="".join(filenames),
        parameters="\n".join(
            f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"
            for key, value in told.items()
        ),
    )


def _port(name: str, port: Mapping[str, Any], batched: bool) -> str:
    """An input or output: a free axis is -1, and Triton's own batch axis is left out."""
    dims = ", ".join("-1" if size is None else str(size) for size in port["shape"][batched:])
    labels = f" label_filename: {_text(LABELS)}" if name == OUTPUT else ""
    return f"  {{ name: {_text(name)} data_type: {TYPES[port['dtype']]} dims: [ {dims} ]{labels} }}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
