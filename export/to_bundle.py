"""Exported model -> what a device gets: `python -m export.to_bundle MODEL_DIR [--out DIR | FILE.tar]`.

One directory or tar with the graph, golden clips, scripts and the library's wheel. It runs where there is neither torch
nor internet, and returns `results.json` (`apt_edge/runtime/results.py` has its form). `--triton DIR` and
`--deepstream DIR` write the model for those engines instead, or beside it with `--out`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that need packages of the extra
    from apt_edge.errors import name_missing_packages

    name_missing_packages("export.to_bundle")

import argparse
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from apt_edge.errors import run_tool
from apt_edge.files import atomic, atomic_directory
from apt_edge.runtime.bundle import LABELS, SUMS, load_bundle, write_sums
from apt_edge.runtime.model_dir import GOLDEN, ONNX, PROMPTS, SIDECAR, ModelDir
from apt_edge.runtime.selftest import golden
from export.bundle.readme import readme
from export.bundle.scripts import scripts
from export.bundle.wheel import EPOCH, build_wheel
from export.serving.deepstream import to_deepstream
from export.serving.files import check_place
from export.serving.triton import to_triton

README = "README.txt"


def to_bundle(path: str | Path, out: str | Path | None = None, wheel: Path | None = None) -> dict[str, Any]:
    """Write the bundle of an exported model.

    Args:
        path: directory that `export.to_onnx` wrote.
        out: directory, or file that ends in `.tar`; `<path>.tar` when None. An older bundle there is replaced.
        wheel: of the library; built from this clone when None.

    Returns:
        `out`, `target`, `files` (name -> bytes) and `bytes`, their sum.

    Raises:
        ModelError: the model's files have changed since the export, or are not complete.
        ConfigError: the target has no bundle.
        AptEdgeError: `out` is something else, or the wheel cannot be built.
    """
    model = ModelDir.load(path)
    target = model.target
    out = Path(out) if out else model.path.with_name(f"{model.path.resolve().name}.tar")
    if out.suffix != ".tar":
        check_place(out, SUMS)
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheel or build_wheel(Path(folder))
        if out.suffix == ".tar":
            directory = Path(folder) / out.stem
            directory.mkdir()
            files = _fill(directory, model, wheel)
            _write_tar(directory, out)
        else:
            with atomic_directory(out) as directory:
                files = _fill(directory, model, wheel)
    return {"out": str(out), "target": target["name"], "files": files, "bytes": sum(files.values())}


def _fill(directory: Path, model: ModelDir, wheel: Path) -> dict[str, int]:
    golden(model)  # raises when it cannot be read
    prompts = [PROMPTS] if model.prompts else []
    for name in (ONNX, SIDECAR, GOLDEN, *prompts, *(path.name for path in model.parts())):
        shutil.copyfile(model.path / name, directory / name)
    shutil.copyfile(wheel, directory / wheel.name)
    texts = scripts(model, wheel.name)
    texts |= {LABELS: "".join(f"{label}\n" for label in model.labels), README: readme(model, wheel.name)}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8", newline="\n")
        (directory / name).chmod(_mode(name))
    write_sums(directory)
    load_bundle(directory).parts()  # what was copied is what was exported, also when that changed a moment ago
    return {path.name: path.stat().st_size for path in sorted(directory.iterdir())}


def _write_tar(directory: Path, out: Path) -> None:
    """Equal files give equal bytes: names are sorted, and times, owners and modes always the same."""
    with atomic(out) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(directory.iterdir()):
            entry = tarfile.TarInfo(f"{directory.name}/{path.name}")
            entry.size, entry.mtime, entry.mode = path.stat().st_size, EPOCH, _mode(path.name)
            with path.open("rb") as file:
                tar.addfile(entry, file)


def _mode(name: str) -> int:
    return 0o755 if name.endswith(".sh") else 0o644


def _plan(text: str) -> tuple[str, Path]:
    capability, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not a compute capability and a file, as 8.7=model.engine")
    return capability, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="export.to_bundle", description="Pack an exported model for a device, or for Triton or DeepStream."
    )
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote")
    parser.add_argument("--out", type=Path, help="directory, or file that ends in .tar (default: MODEL.tar)")
    parser.add_argument("--triton", type=Path, metavar="DIR", help="write the model into this Triton repository")
    parser.add_argument("--name", help="of the model there (default: the target's)")
    parser.add_argument(
        "--plan", type=_plan, action="append", default=[], metavar="CC=FILE", help="an engine for GPUs of a capability"
    )
    parser.add_argument("--deepstream", type=Path, metavar="DIR", help="write the configuration of DeepStream's app")
    parser.add_argument("--span", type=int, help="frames of a stream that a clip of segments spans there")
    parser.add_argument("--json", action="store_true", help="print what was packed as JSON")
    args = parser.parse_args()
    if (args.name or args.plan) and not args.triton:
        parser.error("--name and --plan are for --triton")
    capabilities = [capability for capability, _ in args.plan]
    if twice := {name for name in capabilities if capabilities.count(name) > 1}:
        parser.error(f"--plan has two files for {', '.join(sorted(twice))}: give one a capability")
    if args.span is not None and not args.deepstream:
        parser.error("--span is for --deepstream")
    written: dict[str, Any] = {}
    if args.triton:
        written["triton"] = to_triton(args.model, args.triton, args.name, dict(args.plan))
    if args.deepstream:
        written["deepstream"] = to_deepstream(args.model, args.deepstream, args.span)
    if args.out or not written:
        written |= to_bundle(args.model, args.out)
    print(json.dumps(written, indent=2) if args.json else _summary(written))


def _summary(written: dict[str, Any]) -> str:
    lines = []
    for name, entry in written.get("triton", {}).get("models", {}).items():
        plan = f", plans for {', '.join(entry['plans'])}" if entry["plans"] else ""
        lines.append(f"{written['triton']['repository']}/{name}: max_batch_size {entry['max_batch_size']}{plan}")
    if entry := written.get("deepstream"):
        lines.append(f"{entry['out']}: up to {entry['streams']} streams; copy it to the device and read {README}")
    if "target" in written:
        lines.append(
            f"{written['out']}: {len(written['files'])} files, {written['bytes'] / 1e6:.1f} MB, for "
            f"{written['target']}; copy it to the device and read {README}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_tool(main, "export.to_bundle")
