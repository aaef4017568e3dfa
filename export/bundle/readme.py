"""README.txt of a bundle: what to type, what it needs, what it returns."""

from __future__ import annotations

import textwrap

from apt_edge.runtime.model_dir import ModelDir

# Runtime of a target -> how people call it, and the Python packages that it needs beside numpy.
RUNTIMES = {
    "onnxruntime-cpu": ("ONNX Runtime on a CPU", ["onnxruntime"]),
    "onnxruntime-cuda": ("ONNX Runtime on an NVIDIA GPU", ["onnxruntime-gpu"]),
    "openvino": ("OpenVINO on an x86 CPU", ["openvino"]),
    "tensorrt": ("TensorRT", []),
}
ENGINE_STEPS = """\
On a Jetson first, for full power and fixed clocks: sudo nvpmodel -m 0 && sudo jetson_clocks

    ./build.sh       builds model.engine with this device's trtexec; takes minutes. An engine belongs to the device and
                     the TensorRT that built it. If memory runs out: WORKSPACE=1024 ./build.sh (MiB)
    ./selftest.sh    runs two real clips and compares the logits with those of the float32 model
    ./measure.sh     measures the latency for a minute and writes results.json
"""
SESSION_STEPS = """\
    ./selftest.sh    runs two real clips and compares the logits with those of the float32 model
    ./measure.sh     measures the latency for half a minute and writes results.json (--threads N, --seconds N)
"""
NEEDS = (
    "What is needed: Linux, Python 3.10 or newer with {packages}{trtexec}. No internet, no torch; nothing is "
    "installed: the scripts run {wheel} as it is. Another Python than python3 is chosen as in "
    "PYTHON=python3.12 ./selftest.sh"
)
TEXT = """\
{name}: a video classifier for {platform}

What to type here:

{steps}
{needs}

What it returns: results.json, the one file to bring back. It holds what this device is, how far the logits are from the
float32 model's, every measured time, and what failed. Exit codes: 0 done, 1 something is missing or was changed, 4 a
proof failed.

{labels} classes (labels.txt), clips of {frames} frames of {size} x {size}; model.json has all else that is known.
"""


def readme(model: ModelDir, wheel: str) -> str:
    """The text for a model and the file name of the wheel beside it."""
    target = model.target
    platform, packages = RUNTIMES[target["runtime"]]
    engine = target["runtime"] == "tensorrt"
    bound = ["safetensors"] if model.facts.get("prompt_mode") == "bound" else []
    needs = NEEDS.format(
        packages=", ".join(["numpy", *packages, *bound]),
        trtexec=f", and the trtexec of TensorRT {target['version']}" if engine else "",
        wheel=wheel,
    )
    return TEXT.format(
        name=target["name"],
        platform=f"{platform} {target['version']}".strip(),
        steps=ENGINE_STEPS if engine else SESSION_STEPS,
        needs=textwrap.fill(needs, 118, break_on_hyphens=False),
        labels=len(model.labels),
        frames=model.clip.frames,
        size=model.clip.size,
    )
