"""A bundle on the device: an exported model, its scripts, and the hashes that say whether it arrived whole."""

from __future__ import annotations

from pathlib import Path

from apt_edge.errors import ModelError
from apt_edge.files import sha256
from apt_edge.runtime.model_dir import GOLDEN, ONNX, SIDECAR, ModelDir

SUMS, LABELS = "SHA256SUMS", "labels.txt"
COPY_AGAIN = "copy the bundle again, all of it"


def write_sums(directory: Path) -> None:
    """Write the hashes of every file in `directory`, in the form that `sha256sum --check` reads."""
    names = sorted(path.name for path in directory.iterdir() if path.name != SUMS)
    text = "".join(f"{sha256(directory / name)}  {name}\n" for name in names)
    (directory / SUMS).write_text(text, encoding="utf-8")


def load_model(path: str | Path) -> ModelDir:
    """An exported model; every file of a bundle is checked. Raises ModelError."""
    return load_bundle(path) if (Path(path) / SUMS).is_file() else ModelDir.load(path)


def load_bundle(path: str | Path) -> ModelDir:
    """The model of a bundle whose files are those that were packed; raises ModelError when they are not."""
    path = Path(path)
    if not (path / SUMS).is_file():
        raise ModelError(
            f"{path} is not a bundle: {SUMS} is missing", fix="give a directory that export.to_bundle wrote"
        )
    lines = (path / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    wrong = [f"{name} has no line in {SUMS}" for name in (ONNX, SIDECAR, GOLDEN) if name not in sums]
    for name, expected in sums.items():
        if not (path / name).is_file():
            wrong.append(f"{name} is missing")
        elif sha256(path / name) != expected:
            wrong.append(f"{name} has changed")
    if wrong:
        raise ModelError(f"{path} is not the bundle that was packed", found=", ".join(wrong), fix=COPY_AGAIN)
    return ModelDir.load(path)
