"""The scripts of a bundle: bash around `apt-edge bundle`, and around trtexec where the target is TensorRT.

Their text stands in the `.sh` files beside this module; words like @VERSION@ in it are filled in here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_edge.errors import ConfigError
from apt_edge.runtime.model_dir import ENGINE, INPUT, ModelDir
from apt_edge.runtime.selftest import golden
from export.trtexec.lines import LAYERS, build_line, measure_line, selftest_line

HERE = Path(__file__).parent
PURPOSES = {
    "build.sh": "Builds model.engine on this device",
    "selftest.sh": "Runs the golden clips on this device and compares the logits with those of the float32 model",
    "measure.sh": "Measures the latency on this device and gathers everything into results.json",
}
MARGIN = " \\\n    "


def scripts(model: ModelDir, wheel: str) -> dict[str, str]:
    """Name and text of the scripts for a model and the file name of the wheel beside them.

    Raises:
        ConfigError: the target's runtime has no scripts, or trtexec cannot do what the target asks for.
    """
    target = model.target
    words = {"WHEEL": wheel}
    if target["runtime"] == "tensorrt":
        major, minor = map(int, target["version"].split(".")[:2])
        words |= {"VERSION": target["version"], "PREFIX": f"{major}{minor:02d}" if major >= 10 else f"{major}{minor}"}
        words |= _trtexec_lines(model)
        parts: dict[str, tuple[str, ...]] = {
            "build.sh": ("common", "trtexec", "build"),
            "selftest.sh": ("common", "trtexec", "selftest-engine"),
            "measure.sh": ("common", "trtexec", "measure-engine"),
        }
    elif target["runtime"] == "tensorrt-rtx":
        raise ConfigError(
            "there is no bundle for TensorRT-RTX",
            fix="run export.to_engine on the machine itself, or export for ONNX Runtime or a TensorRT target",
        )
    else:
        parts = {"selftest.sh": ("common", "selftest-session"), "measure.sh": ("common", "measure-session")}
    texts = {}
    for name, pieces in parts.items():
        text = "".join((HERE / f"{piece}.sh").read_text(encoding="utf-8") for piece in pieces)
        purpose = f"{PURPOSES[name]}.\n# Written by export.to_bundle for the target {target['name']}."
        for word, value in {**words, "PURPOSE": purpose}.items():
            text = text.replace(f"@{word}@", value)
        texts[name] = text
    return texts


def _trtexec_lines(model: ModelDir) -> dict[str, str]:
    facts = model.facts
    build = [
        f"{argument}.part" if argument in (f"--saveEngine={ENGINE}", f"--exportLayerInfo={LAYERS}") else argument
        for argument in build_line(facts, facts["float32_nodes"])
    ]
    if any(port["dtype"] == "bfloat16" for port in facts["inputs"].values()):
        raise ConfigError(
            "a bundle cannot feed prompts in bfloat16: numpy has no such type",
            fix="export with prompts.mode=folded, which makes them constants",
        )
    frames, _ = golden(model)
    shapes = {INPUT: _clip_shape(facts), **{name: array.shape for name, array in model.prompts.items()}}
    runs = []
    for index in range(len(frames)):
        folder = f"selftest/{index}"
        inputs = {name: (f"{folder}/{name}.bin", shape) for name, shape in shapes.items()}
        line = selftest_line(facts, inputs, f"{folder}/output.json")
        log = f"logged {folder}/trtexec.log {_shell(line)}"
        runs.append(
            f'{log} ||\n    stop "trtexec could not run model.engine" "build it again on this device: ./build.sh"'
        )
    return {
        "BUILD": _shell(build),
        "SELFTEST": "\n".join(runs),
        "MEASURE": _shell(measure_line(facts)),
        "TRANSFERS": _shell(measure_line(facts, transfers=True)),
    }


def _clip_shape(facts: Mapping[str, Any]) -> list[int]:
    entry = facts["inputs"][INPUT]
    if entry["profile"] and entry["profile"][0][0] > 1:
        raise ConfigError(
            "the self-test of a bundle runs one clip at a time",
            found=f"a profile that starts at {entry['profile'][0][0]} clips",
            fix="export with batch.min=1",
        )
    return [1, *entry["shape"][1:]]


def _shell(line: Sequence[str]) -> str:
    """A line of trtexec as shell text: the program from the variable, one argument a line."""
    return MARGIN.join(['"$trtexec"', *map(shlex.quote, line[1:])])
