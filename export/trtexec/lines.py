"""The trtexec lines of an exported model: build, measure and self-test, the same meaning in every version.

The lines run in the directory of the model and are written for the trtexec of the target's TensorRT. Versions differ in
flags and defaults: unless told otherwise trtexec 11 uses CUDA graphs and spin waits and leaves data transfers out, and
older ones do the opposite. Here every version measures the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apt_edge.errors import ConfigError
from apt_edge.runtime.model_dir import ENGINE, ONNX
from export.trtexec.flags import check, works

LAYERS = "layers.json"
TIMING_CACHE = "timing.cache"
TIMES = "times.json"
TIMES_WITH_TRANSFERS = "times-transfers.json"
OUTPUT = "output.json"

WARM_UP_MS = 500
DURATION_S = 30
PERCENTILES = (50, 90, 95, 99)


def build_line(facts: Mapping[str, Any], float32_nodes: Iterable[str] = ()) -> list[str]:
    """The line that compiles `model.onnx` into `model.engine` and writes `layers.json`.

    Args:
        facts: the sidecar.
        float32_nodes: names of the graph's LayerNorm and Softmax nodes, which stay float32 where types are not bound
            by the graph (TensorRT 8); unused elsewhere.

    Returns:
        Program and arguments. A memory limit (`--memPoolSize=workspace:MiB`) may be appended.

    Raises:
        ConfigError: the target is not TensorRT's, its version is not known or cannot do what it asks for.
    """
    version = _version(facts)
    line = [f"--onnx={ONNX}", f"--saveEngine={ENGINE}"]
    line.append("--skipInference" if works(version, "--skipInference") else "--buildOnly")
    line += _types(version, facts["target"]["precision"], list(float32_nodes))
    for index, flag in enumerate(("--minShapes", "--optShapes", "--maxShapes")):
        line += _shapes(flag, {name: profile[index] for name, profile in _profiles(facts).items()})
    line += ["--profilingVerbosity=detailed", f"--exportLayerInfo={LAYERS}", f"--timingCacheFile={TIMING_CACHE}"]
    return _checked(version, line)


def measure_line(facts: Mapping[str, Any], transfers: bool = False) -> list[str]:
    """The line that measures `model.engine`: CUDA graph, spin wait, 500 ms of warm-up, 30 s.

    Args:
        facts: the sidecar; inputs with a profile have its middle shape.
        transfers: whether inputs and outputs travel between host and device in every run; the times go to
            `times-transfers.json` then, else to `times.json`.

    Raises:
        ConfigError: as `build_line`.
    """
    version = _version(facts)
    line = [f"--loadEngine={ENGINE}"]
    line += _shapes("--shapes", {name: profile[1] for name, profile in _profiles(facts).items()})
    line += _where_it_works(version, "--useCudaGraph", "--useSpinWait")
    line += _where_it_works(version, "--includeDataTransfers" if transfers else "--noDataTransfers")
    line += [f"--warmUp={WARM_UP_MS}", f"--duration={DURATION_S}", f"--percentile={','.join(map(str, PERCENTILES))}"]
    line.append(f"--exportTimes={TIMES_WITH_TRANSFERS if transfers else TIMES}")
    return _checked(version, line)


def selftest_line(
    facts: Mapping[str, Any], inputs: Mapping[str, tuple[str, Sequence[int]]], output: str = OUTPUT
) -> list[str]:
    """The line that runs `model.engine` once on given inputs and writes its outputs.

    Args:
        facts: the sidecar.
        inputs: of every input of the graph the file with its raw values, in the input's type, and their shape.
        output: JSON file to write.

    Raises:
        ConfigError: as `build_line`, or the inputs are not the graph's.
    """
    version = _version(facts)
    if set(inputs) != set(facts["inputs"]):
        raise ConfigError(
            "the self-test needs a file for every input of the graph",
            found=", ".join(inputs) or "none",
            fix=f"give {', '.join(facts['inputs'])}",
        )
    line = [f"--loadEngine={ENGINE}", f"--loadInputs={_spec({name: file for name, (file, _) in inputs.items()})}"]
    line += _shapes("--shapes", {name: inputs[name][1] for name in _profiles(facts)})
    line += _where_it_works(version, "--noCudaGraph", "--includeDataTransfers")
    line += ["--iterations=1", "--warmUp=0", "--duration=0", f"--exportOutput={output}"]
    return _checked(version, line)


def _version(facts: Mapping[str, Any]) -> str:
    target = facts["target"]
    if target["runtime"] != "tensorrt":
        raise ConfigError(
            f"the target {target['name']} is not built with trtexec",
            found=f"runtime {target['runtime']}",
            fix="export for a target whose runtime is tensorrt",
        )
    return str(target["version"])


def _types(version: str, precision: str, float32_nodes: list[str]) -> list[str]:
    """Flags that make the engine's types those of the graph or, without strong typing, of the target."""
    if not works(version, "--fp16"):
        return []
    if works(version, "--stronglyTyped"):
        return ["--stronglyTyped"]
    if precision == "float32":
        return []
    if precision != "float16" or not float32_nodes:
        raise ConfigError(
            f"TensorRT {version} cannot build in {precision} what it is asked for",
            found=f"{len(float32_nodes)} nodes that stay float32",
            fix="choose float16 and name the nodes of LayerNorm and Softmax, which overflow or lose digits in it",
        )
    spec = _spec(dict.fromkeys(float32_nodes, "fp32"))
    return ["--fp16", "--precisionConstraints=obey", f"--layerPrecisions={spec}", f"--layerOutputTypes={spec}"]


def _profiles(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that have free axes, with their smallest, usual and largest shape."""
    return {name: entry["profile"] for name, entry in facts["inputs"].items() if entry["profile"]}


def _where_it_works(version: str, *flags: str) -> list[str]:
    """Those flags that the version has and that are not its default."""
    return [flag for flag in flags if works(version, flag)]


def _shapes(flag: str, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    return [f"{flag}={_spec({name: 'x'.join(map(str, shape)) for name, shape in shapes.items()})}"] if shapes else []


def _spec(values: Mapping[str, str]) -> str:
    """`name:value,name:value`; trtexec splits at commas, then at the last colon, and drops quotes."""
    for name, value in values.items():
        if "," in name + value or "'" in name + value or ":" in value:
            raise ConfigError(
                f"trtexec cannot be given {name!r} with {value!r}",
                fix="use names without comma and quote, and files without colon",
            )
    return ",".join(f"{name}:{value}" for name, value in values.items())


def _checked(version: str, arguments: list[str]) -> list[str]:
    check(version, arguments)
    return ["trtexec", *arguments]
