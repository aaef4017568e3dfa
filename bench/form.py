"""The form of one row of `rows.json`: one contender in one session at one batch size.

A row is an object with the keys of `Measured`, its environment included, and perhaps more. What is not known is null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Clock = Literal["host", "cuda events"]
Built = Literal["apt-edge", "torch.onnx.export", "Hugging Face", "Hugging Face, torch.onnx.export"]

Ms = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]


class Form(BaseModel):
    """More keys than those named are kept; numbers are finite, and a number is not a text."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Memory(Form):
    """Megabytes: resident memory that the session added, the engine's activations, the GPU's peak."""

    rss_mb: Amount | None
    activation_mb: Amount | None
    gpu_mb: Amount | None


class Energy(Form):
    """Joules of one clip, and who metered them: `rapl`, `nvml` or `tegrastats`."""

    joules_per_clip: Amount
    source: Name


class Stages(Form):
    """Medians in ms of what surrounds the inference, apart and together."""

    decode_ms: Amount | None
    preprocess_ms: Amount | None
    transfer_ms: Amount | None
    inference_ms: Amount | None
    end_to_end_ms: Amount | None


class Point(Form):
    """Where a row stands in a sweep."""

    axis: Literal["tokens", "batch", "frames", "size"]
    value: float
    series: Name


class Machine(Form):
    """`apt_edge.runtime.machine.machine()`."""

    cpu: str | None
    cpu_mhz: Amount | None
    governor: str | None
    load_average: Amount | None
    python: Name
    packages: Annotated[dict[str, str], Field(min_length=1)]
    gpus: list[dict[str, str]]
    commands: dict[str, str]


class Environment(Machine):
    """`apt_edge.runtime.machine.machine(threads)`: a number without it cannot be compared with anything.

    `threads` is null for all cores, which only rows that were sent here may say.
    """

    threads: Count | None


class Source(Form):
    """The file that a row was sent in (`bench.ingest`): its form, name and sha256, and when it was written (UTC)."""

    form: Name
    file: Name
    sha256: Name
    created: str


class Measured(Form):
    """One row. Times are ms of one run, which is one batch.

    Attributes:
        kind: `measured`; predictions have a file and a form of their own (`bench.predict`).
        suite, contender: names.
        session: what ran it: `onnxruntime-cpu`, `pytorch-cuda-graph`, `tensorrt`, ...
        clock: `host`, from arrays on the host to logits on the host; `cuda events`, the model alone on the device.
        built: what made the thing that ran: this project (its graph, or its module in PyTorch), PyTorch's exporter, or
            Hugging Face; null when that is not known.
        device: the hardware, as headings call it.
        mode: one batch after the other (`single-stream` of 1, `offline` of more), or MLPerf's single stream.
        batch: clips a run.
        method, precision: of the pack; as it was built or computed (`float32`, `float16`, `bfloat16`, `int8`).
        tokens: prompts a block; 0 without prompts.
        latency_ms_median ... latency_ms_max: of `times_ms`, by trtexec's formula.
        latency_ms_per_clip: median over batch.
        latency_cv: population standard deviation over the mean.
        latency_trend: by which fraction the times changed from the first third to the last.
        rounds: how many times there are.
        baseline: contender that the ratio refers to; null when there is none.
        latency_ratio, latency_ratio_low, latency_ratio_high: paired ratio of the time a clip, with its 95 % interval;
            no interval where the two were not measured in turns.
        verdict: `apt_edge.runtime.statistics.verdict` of that ratio; `not paired` names no winner.
        gmacs, gmacs_ratio: of one clip; over those of the baseline.
        trainable_parameters, accuracy: of the model.
        agreement: `apt_edge.runtime.agreement.agreement` with the baseline's logits; null where the weights differ.
        memory, energy, stages, point: see their classes.
        clips: list file, or what the clips are.
        model_sha256: of the graph or of the weights.
        pack_sha256: of the pack; null for random weights.
        environment: see its class.
        times_ms: every run in its order. Element i of all paired rows of one suite and batch belongs to round i.
        warnings: what a reader of this row must know: a runtime's warnings, proofs that failed.
        parity: of a bundle's row, the self-test's report against PyTorch in float32.
        source: of a row that was sent here, see its class.
    """

    kind: Literal["measured"]
    suite: Name
    contender: Name
    session: Name
    clock: Clock
    built: Built | None
    device: Name
    mode: Literal["single-stream", "offline", "mlperf"]
    batch: Annotated[int, Field(ge=1)]
    method: str | None
    precision: Name
    tokens: Count | None
    latency_ms_median: Ms
    latency_ms_p90: Ms
    latency_ms_p95: Ms
    latency_ms_p99: Ms
    latency_ms_max: Ms
    latency_ms_mean: Ms
    latency_ms_per_clip: Ms
    latency_cv: Amount
    latency_trend: float | None
    rounds: Annotated[int, Field(ge=1)]
    baseline: Name | None
    latency_ratio: Ms | None
    latency_ratio_low: Ms | None
    latency_ratio_high: Ms | None
    verdict: Literal["baseline", "faster", "slower", "no difference", "not paired"]
    gmacs: Amount | None
    gmacs_ratio: Amount | None
    trainable_parameters: Count | None
    accuracy: Annotated[float, Field(ge=0, le=1)] | None
    agreement: dict[str, Any] | None
    memory: Memory | None
    energy: Energy | None
    stages: Stages | None
    point: Point | None
    clips: str | None
    model_sha256: Name
    pack_sha256: Name | None
    environment: Environment
    times_ms: Annotated[list[Ms], Field(min_length=1)]
    warnings: list[str] = []
    parity: dict[str, Any] | None = None
    source: Source | None = None
