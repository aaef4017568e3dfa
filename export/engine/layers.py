"""Layer tables: out of TensorRT-RTX's builder log, or out of the engine through its inspector."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from apt_edge.errors import AptEdgeError


class Layer(NamedTuple):
    """One layer: its name, and the names of the constants that it reads, None where the compiler does not tell."""

    name: str
    constants: tuple[str, ...] | None


def parse_layer_table(log: str) -> tuple[Layer, ...]:
    """Layers in a verbose builder log of TensorRT-RTX: lines `Name: ..., LayerType: ..., Constants: [...]`."""
    return tuple(
        Layer(match["name"], tuple(re.findall(r"Name: ([^,]+),", match["constants"])))
        for match in re.finditer(
            r"^Name: (?P<name>.+?), LayerType: .*?Constants: \[(?P<constants>.*?)\], Outputs: ", log, re.MULTILINE
        )
    )


def log_total(what: str, log: str) -> int | None:
    """Bytes of `Activation` or `Weights` memory in a builder log; None when it does not tell."""
    match = re.search(rf"Total {what} Memory: (\d+) bytes", log)
    return int(match[1]) if match else None


def inspect_plan(trt: Any, log: Any, plan: bytes) -> tuple[tuple[Layer, ...], int]:
    """Layer table and activation bytes from the engine itself; needs a GPU. Raises AptEdgeError."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise AptEdgeError(
            "the plan was built but cannot be inspected",
            found="; ".join(log.errors),
            fix="build on the GPU that runs it",
        )
    inspector = engine.create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return tuple(_inspected(layer) for layer in layers), int(size)


def _inspected(layer: dict[str, Any]) -> Layer:
    constants = layer.get("Constants")
    return Layer(layer["Name"], None if constants is None else tuple(constant["Name"] for constant in constants))
