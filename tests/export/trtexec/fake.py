"""A trtexec for tests: the flags, defaults, log and files of one version, with ONNX Runtime where a GPU would be.

What it accepts comes from `tests/fixtures/trtexec/flags-*.json`. As the real one it refuses unknown flags, and its
engine has the types that the flags bind: without `--stronglyTyped` or `--fp16` a build of 8.5 to 10.16 is float32.
Stricter than the real one: dynamic inputs without a shape are errors, not shapes of 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
TABLES = ROOT / "tests" / "fixtures" / "trtexec"
BANNERS = {
    "8.5": "v8502",
    "8.6": "v8601",
    "10.3": "v100300",
    "10.13": "v101303] [b9",
    "10.16": "v101601",
    "11.0": "v110000",
    "11.1": "v110100",
    "11.2": "v110201",
    "11.3": "v110300",
    "11.4": "v110400",
}
FUSES = {"8.5": 0.0, "8.6": 0.0, "10.3": 0.5}  # share of the attentions; all in later versions
RUNS = 317
ACTIVATION_BYTES = 5_898_240
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class Failure(Exception):
    """Ends with a line of level E and FAILED."""


def install(directory: Path, version: str, behaviour: str = "") -> Path:
    """Write an executable `trtexec` of a version into a directory.

    Args:
        directory: gets the file `trtexec`.
        version: one of BANNERS.
        behaviour: `float32` ignores the types that were asked for, `unfused` leaves one attention unfused, `nan` makes
            outputs that are not finite.
    """
    path = directory / "trtexec"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.export.trtexec.fake import main\nmain({version!r}, {behaviour!r})\n"
    )
    path.chmod(0o755)
    return path


def main(version: str, behaviour: str) -> None:
    """Entry point of the written file."""
    banner = f"TensorRT.trtexec [TensorRT {BANNERS[version]}] # {' '.join(sys.argv)}"
    print(f"&&&& RUNNING {banner}")
    try:
        run(version, behaviour, parse(version, sys.argv[1:]))
    except Failure as failure:
        say(str(failure), "E")
        print(f"&&&& FAILED {banner}")
        sys.exit(1)
    print(f"&&&& PASSED {banner}")


def say(text: str, level: str = "I") -> None:
    """Print a line of the log."""
    print(f"[11/02/2026-10:00:00] [{level}] {text}")


def table(version: str) -> dict[str, list[str]]:
    """Flags of a version."""
    return json.loads((TABLES / f"flags-{version if float(version) < 11.1 else '11.1'}.json").read_text())


def parse(version: str, arguments: list[str]) -> dict[str, str]:
    """Flags and values that do something; unknown ones are refused in trtexec's words."""
    known = table(version)
    options = {flag: value for flag, _, value in (argument.partition("=") for argument in arguments)}
    for flag, value in options.items():
        if flag not in known["accepts"] + known["accepts_without_effect"]:
            raise Failure(f"Unknown option: {flag} {value}")
    return {flag: value for flag, value in options.items() if flag in known["accepts"]}


def run(version: str, behaviour: str, options: dict[str, str]) -> None:
    """Build or load, then infer unless told to stop."""
    if "--help" in options:
        return
    if "--loadEngine" in options:
        engine = load(options["--loadEngine"])
    elif "--onnx" in options:
        engine = build(options)
        say(f"[TRT] Total Activation Memory: {ACTIVATION_BYTES}{'' if version.startswith('8') else ' bytes'}")
    else:
        raise Failure("Model missing or format not recognized")
    if "--exportLayerInfo" in options:
        export_layers(version, behaviour, options, engine)
    if "--skipInference" in options or "--buildOnly" in options:
        return
    modes = describe(version, options)
    feeds = inputs(options, engine)
    if "--exportTimes" in options:
        measure(options, modes["Data transfers"])
    if "--exportOutput" in options:
        export_outputs(options["--exportOutput"], behaviour, engine, feeds)


def spec(text: str) -> dict[str, str]:
    """`name:value,name:value`."""
    return dict(entry.rsplit(":", 1) for entry in text.split(",")) if text else {}


def build(options: dict[str, str]) -> dict:
    """The engine: the graph, its types and its profile."""
    import onnx

    try:
        model = onnx.load(options["--onnx"])
    except (OSError, ValueError) as error:
        raise Failure(f"Could not open file {options['--onnx']}: {error}") from None
    names = {node.name for node in model.graph.node}
    for flag in ("--layerPrecisions", "--layerOutputTypes"):
        if unknown := set(spec(options.get(flag, ""))) - names:
            raise Failure(f"{flag}: no layers {sorted(unknown)}")
    shapes = [spec(options.get(flag, "")) for flag in ("--minShapes", "--optShapes", "--maxShapes")]
    profile = {name: [numbers(shape[name]) for shape in shapes] for name in shapes[1]}
    for value in model.graph.input:
        dynamic = any(not axis.dim_value for axis in value.type.tensor_type.shape.dim)
        if dynamic != (value.name in profile):
            raise Failure(f"Dynamic dimensions required for input: {value.name}, but no shapes were provided.")
    half = "--fp16" in options or "--stronglyTyped" in options
    engine = {"half": half, "obeys": sorted(spec(options.get("--layerPrecisions", ""))), "profile": profile}
    engine["attention"] = sum(node.op_type in ("Softmax", "Attention") for node in model.graph.node)
    graph = model.SerializeToString()
    if "--saveEngine" in options:
        Path(options["--saveEngine"]).write_bytes(json.dumps(engine).encode() + b"\n" + graph)
    if "--timingCacheFile" in options:
        Path(options["--timingCacheFile"]).write_bytes(b"timings")
    return engine | {"graph": graph}


def load(path: str) -> dict:
    """Read back what `build` saved."""
    try:
        header, graph = Path(path).read_bytes().split(b"\n", 1)
        return json.loads(header) | {"graph": graph}
    except (OSError, ValueError) as error:
        raise Failure(f"Error opening engine file: {path}: {error}") from None


def numbers(shape: str) -> list[int]:
    """`1x16` -> [1, 16]."""
    return [int(size) for size in shape.split("x")]


def export_layers(version: str, behaviour: str, options: dict[str, str], engine: dict) -> None:
    """Per attention: one or three layers of its own, four matrix products, two others."""
    half = (engine["half"] or version.startswith("11")) and behaviour != "float32"
    fused = int(engine["attention"] * FUSES.get(version, 1.0)) - (behaviour == "unfused")
    layers = [layer("Reformatting CopyNode for Input Tensor 0 to clip", "Reformat", half)]
    for index in range(engine["attention"]):
        if index < fused:
            layers.append(layer(f"_gemm_mha_v2_myl0_{index}", "kgen", half))
        else:
            layers += [layer(f"/blocks.{index}/attn/{name}", "gemm", half) for name in ("MatMul_qk", "MatMul_av")]
            layers.append(layer(f"/blocks.{index}/attn/Softmax", "kgen", half and not engine["obeys"]))
        layers += [layer(f"/blocks.{index}/{name}/MatMul_myl0_{index}", "gemm", half) for name in "abcd"]
        layers += [layer(f"__myl_Norm{name}_myl0_{index}", "kgen", False) for name in "12"]
    if options.get("--profilingVerbosity") != "detailed":
        layers = [entry["Name"] for entry in layers]
    bindings = "I/O Tensors" if version.startswith("11") else "Bindings"
    Path(options["--exportLayerInfo"]).write_text(json.dumps({"Layers": layers, bindings: ["clip", "logits"]}))


def layer(name: str, kind: str, half: bool) -> dict:
    """A layer with the documented fields."""
    tensor = {"Name": f"{name}_out", "Location": "Device", "Dimensions": [1, 8]}
    tensor["Format/Datatype"] = f"Row major linear {'FP16' if half else 'FP32'}"
    return {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": [tensor], "TacticName": name, "StreamId": 0}


def describe(version: str, options: dict[str, str]) -> dict[str, bool]:
    """Print how inference will run, defaults of the version included; returns the switches."""
    modern = version.startswith("11")
    modes = {
        "Data transfers": "--includeDataTransfers" in options if modern else "--noDataTransfers" not in options,
        "Spin-wait": "--noSpinWait" not in options if modern else "--useSpinWait" in options,
        "CUDA Graph": "--noCudaGraph" not in options if modern else "--useCudaGraph" in options,
    }
    say("=== Inference Options ===")
    say(f"Iterations: {options.get('--iterations', '10')}")
    say(f"Duration: {options.get('--duration', '3')}s (+ {options.get('--warmUp', '200')}ms warm up)")
    for name, on in modes.items():
        say(f"{name}: {'Enabled' if on else 'Disabled'}")
    say("=== Reporting Options ===")
    say(f"Percentile: {options.get('--percentile', '90,95,99')}")
    return modes


def inputs(options: dict[str, str], engine: dict) -> dict[str, np.ndarray]:
    """Zeros, or what `--loadInputs` names, of the right number of bytes and within the profile."""
    import onnxruntime

    shapes = {name: numbers(shape) for name, shape in spec(options.get("--shapes", "")).items()}
    files = spec(options.get("--loadInputs", ""))
    feeds = {}
    for value in onnxruntime.InferenceSession(engine["graph"], providers=["CPUExecutionProvider"]).get_inputs():
        shape = shapes.pop(value.name, value.shape)
        if not all(isinstance(size, int) for size in shape):
            raise Failure(f"Dynamic dimensions required for input: {value.name}, but no shapes were provided.")
        low, _, high = engine["profile"].get(value.name, [shape] * 3)
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            raise Failure(f"{value.name}: shape {shape} is not within the profile {low} to {high}")
        feeds[value.name] = np.zeros(shape, TYPES[value.type])
        if file := files.pop(value.name, None):
            data = np.fromfile(file, feeds[value.name].dtype)
            if data.nbytes != feeds[value.name].nbytes:
                raise Failure(f"{file}: {data.nbytes} bytes, expected {feeds[value.name].nbytes}")
            feeds[value.name] = data.reshape(shape)
    if files or shapes:
        raise Failure(f"Cannot find input tensors with names {[*files, *shapes]} in the engine bindings!")
    return feeds


def export_outputs(path: str, behaviour: str, engine: dict, feeds: dict[str, np.ndarray]) -> None:
    """Outputs of the graph as C++ streams print them: six digits, `nan`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(engine["graph"], providers=["CPUExecutionProvider"])
    entries = []
    for value, array in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        words = ["nan" if behaviour == "nan" else f"{number:.6g}" for number in array.ravel()]
        dimensions = "x".join(map(str, array.shape))
        entries.append(
            f'{{ "name" : "{value.name}"\n, "dimensions" : "{dimensions}"\n, "values" : [ {", ".join(words)} ]'
        )
    Path(path).write_text("[\n  " + "\n  }\n, ".join(entries) + "\n  }\n]\n")


def measure(options: dict[str, str], transfers: bool) -> None:
    """Made-up times with trtexec's statistics in float32, printed with six digits."""
    random = np.random.default_rng(len(options))
    compute = (4.3 + 0.2 * random.gamma(2.0, size=RUNS)).astype(np.float32)
    h2d = (0.2 + 0.01 * random.random(RUNS)).astype(np.float32) * np.float32(transfers)
    d2h = (0.003 + 0.001 * random.random(RUNS)).astype(np.float32) * np.float32(transfers)
    times = {"h2d": h2d, "compute": compute, "d2h": d2h, "latency": h2d + compute + d2h}
    rows = [{f"{name}Ms": float(f"{values[i]:.6g}") for name, values in times.items()} for i in range(RUNS)]
    Path(options["--exportTimes"]).write_text(
        json.dumps([{"startEnqMs": 501.5 + 5 * i} | rows[i] for i in range(RUNS)])
    )
    percents = [float(p) for p in options.get("--percentile", "90,95,99").split(",")]
    say("=== Performance summary ===")
    say(f"Throughput: {1000 / compute.mean():.6g} qps")
    enqueue = (0.01 + 0.001 * random.random(RUNS)).astype(np.float32)
    for name, values in [
        ("Latency", times["latency"]),
        ("Enqueue Time", enqueue),
        ("H2D Latency", h2d),
        ("GPU Compute Time", compute),
        ("D2H Latency", d2h),
    ]:
        say(f"{name}: {statistics(values, percents)}")
    say(f"Total Host Walltime: {compute.sum() / 999:.6g} s")
    say(f"Total GPU Compute Time: {compute.sum() / 1000:.6g} s")
    variation = 100 * compute.std() / compute.mean()
    say(f"* GPU compute time is unstable, with coefficient of variance = {variation:.6g}%.", "W")


def statistics(values: np.ndarray, percents: list[float]) -> str:
    """A metric line."""
    ordered, one = np.sort(values), np.float32(1)
    parts = {"min": ordered[0], "max": ordered[-1], "mean": values.mean(), "median": np.median(values)}
    for p in percents:
        excluded = int((one - np.float32(p) / np.float32(100)) * np.float32(len(values)))
        parts[f"percentile({p:g}%)"] = ordered[max(len(values) - 1 - excluded, 0)]
    return ", ".join(f"{name} = {value:.6g} ms" for name, value in parts.items())
