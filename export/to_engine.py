"""ONNX -> engine: `python -m export.to_engine MODEL_DIR`.

Compiles, audits the compiler's layer table and refuses to leave an engine behind whose attention is not fused. The plan
stays raw (no header of ours), its facts go into `model.json`. An engine whose facts still hold is not built again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that need packages of the extra
    from apt_edge.errors import name_missing_packages

    name_missing_packages("export.to_engine")

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apt_edge.errors import ConfigError, ModelError, run_tool
from apt_edge.files import atomic, write_json
from apt_edge.runtime.model_dir import SIDECAR, ModelDir
from apt_edge.runtime.tensorrt_log import MODULES
from export.engine.audit import audit
from export.engine.cache import engine_key, is_current
from export.engine.compiler import build, load_compiler
from export.engine.device import cuda_device
from export.target import Target

TIMING_CACHE = "timing.cache"


def build_engine(
    path: str | Path,
    compiler: str | None = None,
    *,
    capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Compile an exported model and write `model.engine`, unless the one that is there is what would be built.

    Args:
        path: directory that `export.to_onnx` wrote.
        compiler: `tensorrt-rtx` or `tensorrt`; the target's own when None.
        capabilities: GPUs to compile for, like `SM86`; TensorRT-RTX alone, its own choice when empty.
        timing_cache: TensorRT's kernel timings, reused and extended; `timing.cache` beside the model when None.
        force: build in any case.

    Returns:
        The `engine` entry of the sidecar: see `audit`; `workspace_bytes`, half of the GPU's free memory, or None for a
        plan that is built ahead of time; and `key`.

    Raises:
        MissingDependency: the compiler is not installed.
        ModelError: the model's files are not complete, of another version, or changed while the compiler ran.
        ConfigError, AptEdgeError: what was asked for cannot be built here.
        GateError: the graph does not compile, an attention is not fused, or a prompt is missing.
    """
    model = ModelDir.load(path)
    target = _target(model)
    compiler = _checked(target, compiler or target.compiler, timing_cache)
    load_compiler(compiler)
    device = cuda_device() if compiler == "tensorrt" else None
    profiles = {name: entry["profile"] for name, entry in model.facts["inputs"].items() if entry["profile"]}
    key = engine_key(compiler, device, capabilities, profiles, model.facts["onnx_sha256"])
    if not force and is_current(model, key):
        print(f"{model.engine} is up to date", file=sys.stderr)
        return model.facts["engine"]
    print(f"compiling {model.onnx} with {key['compiler']}", file=sys.stderr)
    workspace = device.free_bytes // 2 if device else None  # the rest is for weights and for timing
    if device:
        timing_cache = timing_cache or model.path / TIMING_CACHE
    start = time.monotonic()
    built = build(
        compiler,
        model.onnx,
        profiles=profiles,
        capabilities=capabilities,
        workspace=workspace,
        timing_cache=timing_cache,
    )
    constants = [] if model.facts["prompt_mode"] == "bound" else model.facts["prompts"]
    report = audit(built, model.facts["attention"], constants) | {"workspace_bytes": workspace, "key": key}
    current = ModelDir.load(path)
    if current.facts["onnx_sha256"] != model.facts["onnx_sha256"]:
        raise ModelError(f"{model.onnx} was exported again while the compiler ran", fix="run export.to_engine again")
    with atomic(model.engine) as temporary:
        temporary.write_bytes(built.plan)
    write_json(model.path / SIDECAR, current.facts | {"engine": report})
    print(f"compiled in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return report


def _target(model: ModelDir) -> Target:
    try:
        return Target.model_validate(model.target)
    except ValidationError as error:
        raise ModelError(
            f"the target in {model.path / SIDECAR} is not one of this version",
            found="; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()),
            fix="export again with export.to_onnx",
        ) from None


def _checked(target: Target, compiler: str | None, timing_cache: Path | None) -> str:
    if compiler is None or compiler not in MODULES:
        raise ConfigError(
            f"the target {target.name} has no compiler",
            fix=f"export for another target, or name one of {', '.join(MODULES)} with --compiler",
        )
    if not target.strongly_typed:
        raise ConfigError(
            f"the target {target.name} is for TensorRT {target.version}, which has no strong typing",
            fix="run build.sh of export.to_bundle on the device: trtexec is told there which layers may be half",
        )
    if timing_cache and compiler != "tensorrt":
        raise ConfigError(f"{compiler} has no timing cache", fix="leave --timing-cache out")
    return compiler


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.to_engine", description="Compile an exported model and audit it.")
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote")
    parser.add_argument("--compiler", choices=sorted(MODULES), help="default: the target's own")
    parser.add_argument(
        "--capability", nargs="+", default=[], help="GPUs to compile for, like SM75 SM86 (TensorRT-RTX alone)"
    )
    parser.add_argument(
        "--timing-cache", type=Path, help="kernel timings to reuse and extend (TensorRT; default: beside the model)"
    )
    parser.add_argument("--force", action="store_true", help="build although the engine is up to date")
    parser.add_argument("--json", action="store_true", help="print the engine report as JSON")
    args = parser.parse_args()
    report = build_engine(
        args.model, args.compiler, capabilities=args.capability, timing_cache=args.timing_cache, force=args.force
    )
    if args.json:
        print(json.dumps(report, indent=2))
        return
    constants = "unknown" if report["prompt_constants"] is None else report["prompt_constants"]
    workspace = f", workspace {report['workspace_bytes'] / 1e6:.0f} MB" if report["workspace_bytes"] else ""
    print(
        f"{args.model / 'model.engine'}: {report['fused_attention']} of {report['attention']} attentions fused, "
        f"{constants} prompt constants, activations {report['activation_bytes'] / 1e6:.1f} MB, "
        f"plan {report['plan_bytes'] / 1e6:.1f} MB{workspace} ({report['compiler']})"
    )


if __name__ == "__main__":
    run_tool(main, "export.to_engine")
