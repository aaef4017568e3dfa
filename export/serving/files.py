"""What the writers for serving engines share: a directory that is whole or absent, labels, and the line for a plan."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.files import atomic_directory
from apt_edge.runtime.model_dir import ENGINE, ONNX, ModelDir
from export.trtexec.lines import build_line

BESIDES = (
    "--exportLayerInfo",
    "--profilingVerbosity",
    "--timingCacheFile",
)  # of a build that is looked into afterwards


def check_place(out: Path, mark: str) -> None:
    """Raise AptEdgeError where a directory of ours would replace something else: what has no `mark`, if not empty."""
    if out.exists() and not (out / mark).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise AptEdgeError(
            f"{out} has no {mark}, so it is not replaced", fix="choose a new directory, or move this one away"
        )


def write_directory(out: Path, mark: str, files: Mapping[str, str | Path], folder: str = "") -> dict[str, int]:
    """Write a directory of texts and copies, in the place of an older one of the same kind.

    Args:
        out: the directory.
        mark: a file that every directory of this kind has: one without it is never replaced.
        files: name to text, or to the file that is copied.
        folder: one that is made also when no file lies in it.

    Returns:
        Name to size in bytes.

    Raises:
        AptEdgeError: `out` is something else.
    """
    check_place(out, mark)
    with atomic_directory(out) as directory:
        (directory / folder).mkdir(exist_ok=True)
        for name, content in files.items():
            path = directory / name
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_text(content, encoding="utf-8", newline="\n")
        return {name: (directory / name).stat().st_size for name in files}


def joined(labels: tuple[str, ...], separator: str, reader: str) -> str:
    """Labels as one text that ends with a line break; raises ConfigError when one holds what separates them."""
    if wrong := [label for label in labels if separator in label or "\n" in label]:
        raise ConfigError(
            f"{reader} cannot read a label with {separator!r} in it",
            found=repr(wrong[0]),
            fix="rename the class in the list of the training videos, and train and export again",
        )
    return separator.join(labels) + "\n"


def plan_line(model: ModelDir, onnx: str, plan: str) -> str:
    """The line of trtexec that builds `plan` from `onnx` with the sidecar's types and profiles.

    Raises:
        ConfigError: the target is not TensorRT's, or its version cannot do what it asks for.
    """
    renamed = {f"--onnx={ONNX}": f"--onnx={onnx}", f"--saveEngine={ENGINE}": f"--saveEngine={plan}"}
    line = build_line(model.facts, model.facts["float32_nodes"])
    return shlex.join(renamed.get(word, word) for word in line if not word.startswith(BESIDES))
