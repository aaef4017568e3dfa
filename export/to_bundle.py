"""Exported model -> what a device gets: `python -m export.to_bundle MODEL_DIR [--out DIR | FILE.tar]`.

One directory or tar with the graph, golden clips, scripts and the library's wheel. It runs where there is neither torch
nor internet, and returns `results.json` (`apt_edge/runtime/results.py` has its form).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from apt_edge.errors import AptEdgeError, run_tool
from apt_edge.files import atomic, atomic_directory
from apt_edge.runtime.bundle import LABELS, SUMS, load_bundle, write_sums
from apt_edge.runtime.model_dir import GOLDEN, ONNX, PROMPTS, SIDECAR, ModelDir
from apt_edge.runtime.selftest import golden
from export.bundle.readme import readme
from export.bundle.scripts import scripts
from export.bundle.wheel import EPOCH, build_wheel

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
    _check_place(out)
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


def _check_place(out: Path) -> None:
    """A directory that is no bundle is never replaced."""
    if out.suffix == ".tar":
        return
    if out.exists() and not (out / SUMS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise AptEdgeError(
            f"{out} is not a bundle, so it is not replaced",
            fix="choose with --out a new directory or a file that ends in .tar",
        )


def _fill(directory: Path, model: ModelDir, wheel: Path) -> dict[str, int]:
    golden(model)  # raises when it cannot be read
    prompts = [PROMPTS] if model.prompts else []
    for name in (ONNX, SIDECAR, GOLDEN, *prompts):
        shutil.copyfile(model.path / name, directory / name)
    shutil.copyfile(wheel, directory / wheel.name)
    texts = scripts(model, wheel.name)
    texts |= {LABELS: "".join(f"{label}\n" for label in model.labels), README: readme(model, wheel.name)}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8", newline="\n")
        (directory / name).chmod(_mode(name))
    write_sums(directory)
    load_bundle(directory)  # what was copied is what was exported, also when that changed a moment ago
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.to_bundle", description="Pack an exported model for a device.")
    parser.add_argument("model", type=Path, help="directory that export.to_onnx wrote")
    parser.add_argument("--out", type=Path, help="directory, or file that ends in .tar (default: MODEL.tar)")
    parser.add_argument("--json", action="store_true", help="print what was packed as JSON")
    args = parser.parse_args()
    packed = to_bundle(args.model, args.out)
    if args.json:
        print(json.dumps(packed, indent=2))
        return
    print(
        f"{packed['out']}: {len(packed['files'])} files, {packed['bytes'] / 1e6:.1f} MB, for {packed['target']}; "
        f"copy it to the device and read {README}"
    )


if __name__ == "__main__":
    run_tool(main, "export.to_bundle")
