"""What an engine says of its inputs and outputs, and whether they can be fed and read from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apt_edge.errors import ModelError
from apt_edge.runtime.session import TensorSpec

# By name: trt.nptype needs an older numpy in 8.6. numpy has no bfloat16.
DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class Profile(NamedTuple):
    """The shapes that an input with a free axis may have."""

    least: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True)
class Ports:
    """Inputs and outputs by name, in the engine's order, and the profiles of the inputs with a free axis."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    profiles: dict[str, Profile]

    def profile(self, name: str) -> Profile:
        """The least and the largest shape of an input."""
        fixed = tuple(length or 0 for length in self.inputs[name].shape)
        return self.profiles.get(name, Profile(fixed, fixed))

    def check_profiles(self, values: Mapping[str, np.ndarray]) -> None:
        """Raise ModelError unless the arrays, whose fixed axes fit, are within the profiles."""
        for name in values.keys() & self.profiles.keys():
            least, most = self.profiles[name]
            shape = values[name].shape
            if any(not low <= length <= high for low, length, high in zip(least, shape, most, strict=True)):
                texts = ["x".join(map(str, lengths)) for lengths in (least, most, shape)]
                fix = "export with a larger batch.max, prompts.max_count or max_classes, and build again"
                if any(length < low for low, length in zip(least, shape, strict=True)):
                    fix = f"give at least {texts[0]}: a smaller batch needs an export with a smaller batch.min and "
                    fix += "another build, and free numbers of prompts and classes begin at 1 in TensorRT"
                raise ModelError(
                    f"input {name} of this engine may have shapes from {texts[0]} to {texts[1]}",
                    found=texts[2],
                    fix=fix,
                )


def read_ports(trt: Any, engine: Any, path: Path) -> Ports:
    """Ports of an engine from `path`; raises ModelError for one that cannot be fed or read from here."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    specs = {name: _spec(trt, engine, name, path) for name in names}
    inputs = {name: specs[name] for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
    return Ports(
        inputs,
        {name: spec for name, spec in specs.items() if name not in inputs},
        {name: _profile(engine, name) for name, spec in inputs.items() if None in spec.shape},
    )


def _spec(trt: Any, engine: Any, name: str, path: Path) -> TensorSpec:
    kind, location = engine.get_tensor_dtype(name).name, engine.get_tensor_location(name)
    layout = engine.get_tensor_format(name)
    on_device, linear = location == trt.TensorLocation.DEVICE, layout == trt.TensorFormat.LINEAR
    if kind not in DTYPES or not on_device or not linear or engine.is_shape_inference_io(name):
        raise ModelError(
            f"{path} has a tensor {name} that cannot be fed or read from here",
            found=f"type {kind}, format {layout}, location {location}",
            fix="build the model.onnx of an export as it is; prompts in bfloat16 must be folded",
        )
    shape = tuple(None if length < 0 else int(length) for length in engine.get_tensor_shape(name))
    return TensorSpec(shape, np.dtype(DTYPES[kind]))


def _profile(engine: Any, name: str) -> Profile:
    least, _, most = engine.get_tensor_profile_shape(name, 0)
    return Profile(tuple(map(int, least)), tuple(map(int, most)))
