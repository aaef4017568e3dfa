"""Doorkeeper of TensorRT and TensorRT-RTX: ONNX in, plan and layer table out.

Both packages have the same Python API as far as it is used here. TensorRT-RTX compiles on a machine without a GPU; its
verbose builder log holds the layer table. TensorRT builds on the GPU and is asked through its engine inspector.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from apt_edge.errors import AptEdgeError, ConfigError, GateError, MissingDependency
from apt_edge.runtime.tensorrt_log import MODULES, logger
from export.engine.layers import Layer, inspect_plan, log_total, parse_layer_table
from export.engine.progress import interruptible, make_monitor
from export.engine.timing_cache import load_timing_cache, save_timing_cache


@dataclass(frozen=True)
class Build:
    """A compiled plan.

    Attributes:
        compiler: package and version.
        plan: the serialised engine.
        layers: the layer table.
        activation_bytes: device memory for activations.
        weight_bytes: device memory for weights; None when the log does not tell.
    """

    compiler: str
    plan: bytes
    layers: tuple[Layer, ...]
    activation_bytes: int
    weight_bytes: int | None


def load_compiler(name: str) -> ModuleType:
    """Import a compiler; raises MissingDependency with the line that installs it."""
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise MissingDependency(
            f"the compiler {name} is not installed", found=str(error), fix=f'pip install "apt-edge[{name}]"'
        ) from None


def builder_flags(trt: Any) -> list[str]:
    """Flags of every build: TensorRT-RTX's release notes ask for this one (1.2) where CUDA graphs are captured."""
    return [name for name in ("REQUIRE_USER_ALLOCATION",) if hasattr(trt.BuilderFlag, name)]


def build(
    name: str,
    onnx_path: Path,
    *,
    profiles: Mapping[str, list[list[int]]] | None = None,
    capabilities: Sequence[str] = (),
    workspace: int | None = None,
    timing_cache: Path | None = None,
) -> Build:
    """Compile a strongly typed graph.

    Args:
        name: `tensorrt-rtx` or `tensorrt`.
        onnx_path: the graph.
        profiles: input name -> [min, opt, max] shapes; needed for every input with a free axis.
        capabilities: GPUs to compile for, like `SM86`; TensorRT-RTX alone, its own choice when empty.
        workspace: bytes that a layer may use beside its inputs and outputs. Part of the plan, so a build for other
            machines must leave it None: the compiler's own limit.
        timing_cache: kernel timings to reuse and to extend; TensorRT alone.

    Raises:
        AptEdgeError: this compiler cannot build typed graphs, or the timing cache is damaged.
        ConfigError: a free axis without a profile, or a capability that the compiler does not have.
        GateError: the parser or the builder refuses the graph.
        KeyboardInterrupt: Ctrl-C ended the build.
    """
    trt: Any = load_compiler(name)
    log = logger(trt)
    log.lines.clear()
    log.errors.clear()
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise AptEdgeError(
            f"{name} {trt.__version__} cannot build strongly typed graphs",
            fix="run build.sh of export.to_bundle on the device: trtexec is told there which layers may be half",
        )
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise GateError(f"{name} cannot parse {onnx_path}", found=reasons, fix="export for a target that it supports")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in builder_flags(trt):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    _set_profiles(builder, network, config, profiles or {})
    _set_capabilities(trt, config, capabilities)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if timing_cache:
        load_timing_cache(config, log.errors, timing_cache)
    with interruptible() as interrupted:
        if monitor := make_monitor(trt, interrupted):
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GateError(f"{name} cannot build {onnx_path}", found="; ".join(log.errors) or "no reason given")
    if timing_cache:
        save_timing_cache(config, timing_cache)
    return _describe(trt, log, name, bytes(plan))


def _set_profiles(builder: Any, network: Any, config: Any, profiles: Mapping[str, list[list[int]]]) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    free = [tensor.name for tensor in inputs if -1 in tuple(tensor.shape)]
    if missing := [name for name in free if name not in profiles]:
        raise ConfigError(
            f"input {missing[0]} has a free axis and no profile",
            fix="export again: the target's batch sets its profile",
        )
    if not free:
        return
    profile = builder.create_optimization_profile()
    for name in free:
        profile.set_shape(name, *profiles[name])
    config.add_optimization_profile(profile)


def _set_capabilities(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    if not capabilities:
        return
    if not hasattr(config, "num_compute_capabilities"):
        raise ConfigError(f"{trt.__name__} compiles for the GPU that it runs on", fix="leave the capabilities out")
    members = trt.ComputeCapability.__members__
    known = [name for name in members if name.startswith("SM")]
    if unknown := [name for name in capabilities if name not in known]:
        raise ConfigError(
            f"{trt.__name__} cannot compile for {unknown[0]}",
            found=", ".join(known),
            fix="name capabilities of this list",
        )
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(members[name], index)


def _describe(trt: Any, log: Any, name: str, plan: bytes) -> Build:
    text = "\n".join(log.lines)
    layers, activation = parse_layer_table(text), log_total("Activation", text)
    if not layers or activation is None:
        layers, activation = inspect_plan(trt, log, plan)
    return Build(f"{name} {trt.__version__}", plan, layers, activation, log_total("Weights", text))
