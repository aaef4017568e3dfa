"""What would fail when a model is run on this device, before it fails."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.doctor.steps import first_installed
from apt_edge.errors import AptEdgeError, MissingDependency, ModelError
from apt_edge.runtime.bundle import load_model
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.parts import open_parts
from apt_edge.runtime.runner import TaskRunner
from apt_edge.runtime.tasks import own_task

# Runtime of a target -> its Python module, and what installs it.
RUNTIMES = {
    "onnxruntime-cpu": ("onnxruntime", "apt-edge[onnxruntime]"),
    "onnxruntime-cuda": ("onnxruntime", "apt-edge[gpu]"),
    "openvino": ("openvino", "apt-edge[openvino]"),
    "tensorrt-rtx": ("tensorrt_rtx", "apt-edge[tensorrt-rtx]"),
    "tensorrt": ("tensorrt", "apt-edge[tensorrt]"),
}
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")  # packages of PyPI and of JetPack
ENGINES = ("tensorrt", "tensorrt-rtx")
CODECS = ("h264", "hevc", "mpeg4", "vp9", "av1")
SESSION_MEMORY = 2  # bytes of a session for each of the graph's file: 1.4 to 2.7 were measured
BUILD_SPACE = 3  # the same of the disk where an engine is built: plan, timing cache, a plan that is replaced


def examine_model(path: str | Path, device: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a model would run here.

    Args:
        path: an exported model directory or a bundle.
        device: what `device_files` and `device_programs` found.

    Returns:
        `path`, `target`, `runtime`; `problems`: {what, found, fix} of all that would fail, empty when it ran a clip;
        `warnings`: the same of what fails with some videos alone.
    """
    problems, warnings = list[AptEdgeError](), list[AptEdgeError]()
    report: dict[str, Any] = {"path": str(path), "target": None, "runtime": None}
    try:
        model = load_model(path)
        report |= {"target": model.target["name"], "runtime": model.target["runtime"]}
        for check in (_decoder, _packages, _version, _space, _memory):
            problems += check(model, device)
        if model.target["runtime"] in ENGINES:
            problems += _told(model.trusted_engine)
        if not problems:
            problems += _told(lambda: _run_a_clip(model))
        warnings += _codecs()
    except AptEdgeError as error:  # the directory itself
        problems.append(error)
    found = {"problems": problems, "warnings": warnings}
    return report | {
        kind: [{"what": error.wrong, "found": error.found, "fix": error.fix} for error in errors]
        for kind, errors in found.items()
    }


def _told(step: Callable[[], object]) -> list[AptEdgeError]:
    """What a step that the model needs complains of."""
    try:
        step()
    except AptEdgeError as error:
        return [error]
    return []


def _run_a_clip(model: ModelDir) -> None:
    """What predict does with a clip, all in zeros."""
    _, frames, size, _ = model.clip.shape
    runner = TaskRunner(model, open_parts(model), [own_task(model)])
    runner.logits(np.zeros((frames, size, size, 3), np.uint8))


def _decoder(model: ModelDir, device: Mapping[str, Any]) -> Iterator[AptEdgeError]:
    """Videos are read by PyAV."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        yield MissingDependency(
            "PyAV does not load, which reads videos", found=str(error), fix='pip install "av>=14.2"'
        )


def _codecs() -> Iterator[AptEdgeError]:
    """A distribution may have built PyAV's FFmpeg without some codecs, which not everybody needs."""
    try:
        import av
    except ImportError:  # told by `_decoder`
        return
    if lacking := [name for name in CODECS if not _decodes(av, name)]:
        yield MissingDependency(
            f"this PyAV decodes no {', '.join(lacking)}", found=f"av {av.__version__}", fix="pip install av, from PyPI"
        )


def _decodes(av: Any, codec: str) -> bool:
    with suppress(av.codec.codec.UnknownCodecError):
        return bool(av.codec.Codec(codec, "r"))
    return False


def _packages(model: ModelDir, device: Mapping[str, Any]) -> Iterator[AptEdgeError]:
    """The runtime is installed, loads, and has what it needs from the driver."""
    runtime = str(model.target["runtime"])
    module, extra = RUNTIMES[runtime]
    try:
        loaded = importlib.import_module(module)
    except (ImportError, OSError) as error:
        yield MissingDependency(
            f"{model.path} needs {module}, which does not load", found=str(error), fix=_install(runtime, extra, device)
        )
        return
    if runtime == "onnxruntime-cuda" and "CUDAExecutionProvider" not in loaded.get_available_providers():
        yield MissingDependency(
            f"{model.path} needs ONNX Runtime with CUDA",
            found=", ".join(loaded.get_available_providers()),
            fix=f'pip uninstall onnxruntime, then pip install "{extra}": the two share their folder',
        )
    if runtime == "onnxruntime-cuda" and not device["driver"]:
        yield AptEdgeError(f"{model.path} needs an NVIDIA GPU", found="no NVIDIA driver", fix="install the driver")
    if runtime in ENGINES:
        from apt_edge.runtime.cuda.find import open_cuda

        yield from _told(open_cuda)


def _install(runtime: str, extra: str, device: Mapping[str, Any]) -> str:
    if runtime == "tensorrt" and device["l4t"]:
        return (
            "apt install python3-libnvinfer, and make the virtual environment with --system-site-packages: "
            "JetPack's TensorRT is no package of PyPI"
        )
    return f'pip install "{extra}"'


def _version(model: ModelDir, device: Mapping[str, Any]) -> Iterator[AptEdgeError]:
    """A graph is written, and its engine built, for one minor version of TensorRT."""
    if model.target["runtime"] != "tensorrt":
        return
    package = first_installed(TENSORRT)
    here = [package[1]] if package else device["tensorrt"]
    wanted = str(model.target["version"])
    if here and not any(f"{version}.".startswith(f"{wanted}.") for version in here):
        yield ModelError(
            f"{model.path} is for TensorRT {wanted}",
            found=f"TensorRT {', '.join(here)}" + (f" of JetPack {device['jetpack']}" if device["jetpack"] else ""),
            fix="export again for a target with this version (export/targets), or install the one that it is for",
        )


def _space(model: ModelDir, device: Mapping[str, Any]) -> Iterator[AptEdgeError]:
    """Room for the engine, where there is none yet."""
    if model.target["runtime"] not in ENGINES or model.engine.is_file():
        return
    needed, free = BUILD_SPACE * model.onnx.stat().st_size, shutil.disk_usage(model.path).free
    if free < needed:
        yield AptEdgeError(
            f"the disk of {model.path} has too little room to build its engine",
            found=f"{free / 1e6:.0f} MB free, about {needed / 1e6:.0f} MB needed",
            fix="remove what is not needed there, or copy the model to a larger disk",
        )


def _memory(model: ModelDir, device: Mapping[str, Any]) -> Iterator[AptEdgeError]:
    """Memory of the host; an engine's session looks at its device before it allocates."""
    free, needed = device["free_memory_mb"], SESSION_MEMORY * model.onnx.stat().st_size / 1e6
    if model.target["runtime"] in ENGINES or free is None or free >= needed:
        return
    yield AptEdgeError(
        f"{model.path} has too little memory here",
        found=f"{free} MB free, about {needed:.0f} MB needed",
        fix="close other programs, or export a smaller backbone",
    )
