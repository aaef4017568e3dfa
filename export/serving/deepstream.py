"""Exported model -> configuration of DeepStream's deepstream-3d-action-recognition: clips `[N, 3, T, S, S]`.

Sources: NVIDIA/DeepStream (9.1), that sample's README and configurations, the property parsers of gst-nvinfer and
gst-nvdspreprocess, and nvdsinfer's model builder. Shapes: N streams, T frames, S size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, GateError
from apt_edge.runtime.bundle import LABELS
from apt_edge.runtime.model_dir import INPUT, ONNX, OUTPUT, ModelDir
from apt_edge.runtime.ort import OrtSession
from apt_edge.runtime.selftest import golden
from export.serving.files import joined, plan_line, write_directory

PREPROCESS, INFER, APP, README = "config_preprocess.txt", "config_infer_primary.txt", "app_config.txt", "README.txt"
PROBABILITIES = "probabilities"
WIDTH, HEIGHT = 1280, 720  # what the muxer makes of every stream
SAMPLES = "file:///opt/nvidia/deepstream/deepstream/samples/streams"
VIDEOS = ("sample_walk.mov", "sample_run.mov", "sample_ride_bike.mov", "sample_push.mov")
LARGEST_ERROR = 1e-6  # of a probability, against softmax in float64

PREPROCESS_TEXT = """\
[property]
enable=1
target-unique-ids=1
process-on-frame=1
# streams; colours; frames; height; width
network-input-shape={streams};3;{frames};{size};{size}
# RGB; the order of axes is the custom library's; float32
network-color-format=0
network-input-order=2
tensor-data-type=0
tensor-name={input}
processing-width={size}
processing-height={size}
scaling-pool-memory-type=0
scaling-pool-compute-hw=0
# averages over what becomes one pixel, which is nearest to the antialiased filter of training
scaling-filter=3
tensor-buf-pool-size=8
custom-lib-path=/opt/nvidia/deepstream/deepstream/lib/libnvds_custom_sequence_preprocess.so
custom-tensor-preparation-function=CustomSequenceTensorPreparation

[user-configs]
# (level - offset) * factor of red, green and blue: the levels are 0 to 255
channel-scale-factors={factors}
channel-mean-offsets={offsets}
# of {every} frames of a stream one is taken, and a new clip begins every {hop} of these
subsample={subsample}
stride={hop}

[group-0]
src-ids={sources}
process-on-roi=1
# the square in the middle, as in training
{regions}
"""
INFER_TEXT = """\
[property]
gpu-id=0
gie-unique-id=1
process-mode=1
onnx-file={onnx}
model-engine-file={engine}
labelfile-path={labels}
batch-size={streams}
input-tensor-from-meta=1
# classifier
network-type=1
classifier-threshold=0
output-tensor-meta=1
tensor-meta-pool-size=8
# no precision flag: {types}
network-mode=0
{typed}"""
APP_TEXT = """\
[action-recognition]
# at most {streams}: files, or cameras as rtsp://...
uri-list={uris}
preprocess-config={preprocess}
infer-config={infer}
muxer-width={width}
muxer-height={height}
muxer-batch-timeout=40000
tiler-width={width}
tiler-height={height}
display-sync=1
fakesink=0
enable-fps=1
debug=0
"""
README_TEXT = """\
{name}: {classes} classes, for DeepStream's sample app deepstream-3d-action-recognition

1. Build the engine on the device, in this directory. A DeepStream whose nvinfer knows the key strongly-typed, as 9.1
   does, builds it by itself at the first start; others need it:

   {line}

2. Build the sample app and its preprocessing library where DeepStream put them, once:
   /opt/nvidia/deepstream/deepstream/sources/apps/sample_apps/deepstream-3d-action-recognition (its README says how).
3. Put your streams into uri-list of {app}, at most {streams}, and run in this directory:

   deepstream-3d-action-recognition -c {app}

A clip is {frames} frames, {every} frames of the stream apart: {span} frames at the frame rate of the training videos.
A clip is classified every {wait} frames. The frames are 16:9; for others change muxer-width and muxer-height of
{app} and the squares roi-params-src-* of {preprocess} (left; top; width; height).
"""


def to_deepstream(path: str | Path, out: str | Path, span: int | None = None) -> dict[str, Any]:
    """Write the graph with a softmax behind it and the configurations of preprocessing, inference and app.

    Args:
        path: directory that `export.to_onnx` wrote.
        out: directory; an older one of this kind is replaced.
        span: frames of a stream that a clip spans, for clips of segments, which span whole videos in training.

    Returns:
        `out`, `streams`, `files` (name -> bytes) and `max_abs`, the largest error of a probability on the golden clips;
        None for a graph in bfloat16, which ONNX Runtime cannot run on a CPU.

    Raises:
        ConfigError: the export does not fit DeepStream; the fix names the settings to export with.
        GateError: the graph with softmax does not give the probabilities of the logits.
        AptEdgeError: `out` is something else.
    """
    model = ModelDir.load(path)
    _check_fit(model)
    every = _every(model.clip, span)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / ONNX
        add_softmax(model.onnx, graph)
        error = None if model.facts["precision"] == "bfloat16" else _prove(model, graph)
        files: dict[str, str | Path] = {**_texts(model, every), ONNX: graph}
        sizes = write_directory(Path(out), PREPROCESS, files)
    return {"out": str(out), "streams": _streams(model), "files": sizes, "max_abs": error}


def _check_fit(model: ModelDir) -> None:
    """Raises ConfigError naming every setting that another export needs."""
    target, port = model.target, model.facts["inputs"][INPUT]
    if target["runtime"] != "tensorrt":
        raise ConfigError(
            "DeepStream runs TensorRT engines",
            found=f"an export for {target['name']}",
            fix="export for a TensorRT target, such as export/targets/jetson-jp72.toml, with --set input=float32 "
            "--set batch.opt=4 --set batch.max=4 (streams)",
        )
    wrong = []
    if port["dtype"] != "float32":
        wrong.append((f"the graph takes {port['dtype']} frames, not normalised float32 clips", "input=float32"))
    if len(model.facts["inputs"]) > 1:
        wrong.append(("prompts are inputs, and nvinfer has one", "prompts.mode=folded"))
    if port["profile"] is None or port["profile"][0][0] > 1:
        wrong.append(("the batch is not free from 1 stream on", "batch.min=1 --set batch.opt=4 --set batch.max=4"))
    if target["version"].startswith("8.") and target["precision"] != "float32":
        wrong.append(("nvinfer cannot be told what stays float32 in TensorRT 8", "precision=float32"))
    if wrong:
        raise ConfigError(
            f"{model.path} does not fit DeepStream",
            found="; ".join(found for found, _ in wrong),
            fix=f"export again with {' '.join(f'--set {setting}' for _, setting in wrong)}",
        )


def _every(clip: ClipSpec, span: int | None) -> int:
    """Of how many frames of a stream one is taken."""
    if clip.sampling == "dense":
        if span is not None:
            raise ConfigError(
                f"dense clips span {clip.frames * clip.stride} frames, as in training", fix="leave --span out"
            )
        return clip.stride
    if span is None or span < clip.frames:
        raise ConfigError(
            "in training a clip spans a whole video, and a stream has no end",
            found="no span" if span is None else f"a span of {span} frames",
            fix=f"say with --span how many frames of a stream a clip spans: {clip.frames} or more, as many as a "
            "training video usually has",
        )
    return span // clip.frames


def add_softmax(source: Path, target: Path) -> None:
    """Copy a graph with its output `logits` replaced by `probabilities`; nothing else of it changes."""
    model = onnx.load(source)
    node = onnx.helper.make_node("Softmax", [OUTPUT], [PROBABILITIES], name=PROBABILITIES, axis=-1)
    model.graph.node.append(node)
    (output,) = model.graph.output
    output.name = PROBABILITIES
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _prove(model: ModelDir, graph: Path) -> float:
    """Largest error of the graph's probabilities against softmax of the model's logits, on the golden clips."""
    plain, added = OrtSession(model.onnx), OrtSession(graph)
    worst = 0.0
    for frames_TSSC in golden(model)[0]:
        feeds = model.feeds(plain.inputs, frames_TSSC)
        logits_1K = plain.run(feeds)[OUTPUT].astype(np.float64)
        weights_1K = np.exp(logits_1K - logits_1K.max())
        error_1K = np.abs(added.run(feeds)[PROBABILITIES] - weights_1K / weights_1K.sum())
        worst = max(worst, float(error_1K.max()))
    if not worst <= LARGEST_ERROR:
        raise GateError(
            f"the softmax behind {model.onnx} does not give the probabilities of its logits",
            found=f"an error of {worst:.1e}, allowed is {LARGEST_ERROR:.0e}",
            fix="export again",
        )
    return worst


def _streams(model: ModelDir) -> int:
    return int(model.facts["inputs"][INPUT]["profile"][2][0])


def _texts(model: ModelDir, every: int) -> dict[str, str]:
    """Name and text of every file but the graph."""
    clip, streams, target = model.clip, _streams(model), model.target
    _, _, _, size, _ = model.facts["inputs"][INPUT]["shape"]
    hop, engine = max(1, clip.frames // 2), f"{ONNX}_b{streams}_gpu0_fp32.engine"  # as nvinfer names what it builds
    typed = not target["version"].startswith("8.")
    side = min(WIDTH, HEIGHT)
    region = f"{(WIDTH - side) // 2};{(HEIGHT - side) // 2};{side};{side}"
    preprocess = PREPROCESS_TEXT.format(
        streams=streams,
        frames=clip.frames,
        size=size,
        input=INPUT,
        factors=";".join(f"{1 / (255 * std):.9g}" for std in clip.std),
        offsets=";".join(f"{255 * mean:.9g}" for mean in clip.mean),
        every=every,
        subsample=every - 1,
        hop=hop,
        sources=";".join(map(str, range(streams))),
        regions="\n".join(f"roi-params-src-{source}={region}" for source in range(streams)),
    )
    infer = INFER_TEXT.format(
        onnx=ONNX,
        engine=engine,
        labels=LABELS,
        streams=streams,
        types="the types are the graph's" if typed else "everything is float32",
        typed="strongly-typed=1\n" if typed else "",
    )
    uris = ";".join(f"{SAMPLES}/{VIDEOS[source % len(VIDEOS)]}" for source in range(streams))
    app = APP_TEXT.format(streams=streams, uris=uris, preprocess=PREPROCESS, infer=INFER, width=WIDTH, height=HEIGHT)
    readme = README_TEXT.format(
        name=target["name"],
        classes=len(model.labels),
        line=plan_line(model, ONNX, engine),
        app=APP,
        streams=streams,
        frames=clip.frames,
        every=every,
        span=clip.frames * every,
        wait=hop * every,
        preprocess=PREPROCESS,
    )
    labels = joined(model.labels, ";", "nvinfer")  # of one output on one line
    return {PREPROCESS: preprocess, INFER: infer, APP: app, README: readme, LABELS: labels}
