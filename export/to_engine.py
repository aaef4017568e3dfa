"""ONNX -> engine: `python -m export.to_engine MODEL_DIR`.

Compiles, audits the compiler's layer table and refuses to leave an engine behind whose attention is not fused. The plan
stays raw (no header of ours), its facts go into `model.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import atomic, write_json
from apt_edge.runtime.model_dir import SIDECAR, ModelDir
from export.engine.audit import audit
from export.engine.compiler import MODULES, build


def build_engine(path: str | Path, compiler: str | None = None) -> dict[str, Any]:
    """Compile an exported model and write `model.engine`.

    Args:
        path: directory that `export.to_onnx` wrote.
        compiler: `tensorrt-rtx` or `tensorrt`; the target's own when None.

    Returns:
        The `engine` entry of the sidecar.

    Raises:
        MissingDependency: the compiler is not installed.
        GateError: an attention is not fused, or a prompt is missing.
    """
    model = ModelDir.load(path)
    compiler = compiler or model.facts["target"]["compiler"]
    if compiler not in MODULES:
        raise ConfigError(
            f"the target {model.facts['target']['name']} has no compiler",
            fix=f"export for another target, or name one of {', '.join(MODULES)} with --compiler",
        )
    built = build(compiler, model.onnx)
    report = audit(built, model.facts["attention"], model.facts["prompts"])
    with atomic(model.engine) as temporary:
        temporary.write_bytes(built.plan)
    write_json(model.path / SIDECAR, model.facts | {"engine": report})
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.to_engine", description="Compile an exported model and audit it.")
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote")
    parser.add_argument("--compiler", choices=sorted(MODULES), help="default: the target's own")
    parser.add_argument("--json", action="store_true", help="print the engine report as JSON")
    args = parser.parse_args()
    print(f"compiling {args.model}", file=sys.stderr)
    start = time.monotonic()
    report = build_engine(args.model, args.compiler)
    print(f"compiled in {time.monotonic() - start:.1f} s", file=sys.stderr)
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(
        f"{args.model / 'model.engine'}: {report['fused_attention']} of {report['attention']} attentions fused, "
        f"{report['prompt_constants']} prompt constants, activations {report['activation_bytes'] / 1e6:.1f} MB, "
        f"plan {report['plan_bytes'] / 1e6:.1f} MB ({report['compiler']})"
    )


if __name__ == "__main__":
    run_tool(main, "export.to_engine")
