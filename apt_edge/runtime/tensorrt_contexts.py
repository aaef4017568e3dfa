"""Execution contexts: one for each set of shapes, all on one block of device memory, for only one runs at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Shapes = dict[str, tuple[int, ...]]
Key = tuple[tuple[int, ...], ...]  # shapes of all inputs, in the engine's order
CONTEXTS = 8  # with shapes that differ, as tasks with other numbers of prompts or classes have


@dataclass(frozen=True)
class Shaped:
    """A context with shapes, and what follows from them.

    Attributes:
        key: of the shapes.
        context: `IExecutionContext`.
        outputs: output name to shape.
    """

    key: Key
    context: Any
    outputs: Shapes


def most_contexts(engine: Any) -> int:
    """How many contexts an engine may have at once: TensorRT 8 gives a profile to one of them alone."""
    return CONTEXTS if hasattr(engine, "device_memory_size_v2") else 1


def activation_bytes(engine: Any) -> int:
    """Device memory that a context needs for the largest shapes."""
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)


def create_context(trt: Any, engine: Any) -> Any:
    """A context that is still to be given its memory; None when TensorRT has no room for it.

    TensorRT-RTX would run new shapes with fallback kernels, and compile better ones meanwhile: a graph would keep the
    former, and bits would change between runs. So it compiles first.
    """
    if not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context_without_device_memory()
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def give_memory(context: Any, address: int, size: int) -> None:
    """Tell a context where its activations lie."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size)
    else:
        context.device_memory = address


def capturable(context: Any, stream: int) -> bool:
    """Whether a context can be captured, as far as TensorRT tells before it is tried."""
    return bool(context.is_stream_capturable(stream)) if hasattr(context, "is_stream_capturable") else True
