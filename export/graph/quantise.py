"""INT8 for the linear layers of the blocks, calibrated on real clips, written by ONNX Runtime's own quantiser.

A layer's input and weights go through QuantizeLinear and DequantizeLinear: weights with a scale for each output
channel, inputs with one. Results are not quantised, and attention's own products keep the graph's type: no fused int8
kernel takes as many tokens as a clip has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from apt_edge.errors import GateError
from apt_edge.runtime.agreement import failures
from apt_edge.runtime.ort import OrtSession
from export.graph.precision import FLOAT, NORM
from export.graph.rules import array, constant, insert, tidy
from export.target import Tolerance

Feeds = Sequence[Mapping[str, np.ndarray]]

# Steps of the 8-bit grid in the root mean square of a layer's input. Below this, the grid is spent on a few outliers:
# two such layers of a trained AdaptFormer took 80% accuracy to 30%, and leaving them out gave all of it back.
STEPS = 6.0
# The smallest range of a weight channel: its scale must not vanish in float16.
RANGE = 2e-5


def quantise(
    model: ir.Model, float32: set[ir.Node], feeds: Feeds, symmetric: bool, folder: Path
) -> tuple[ir.Model, dict[str, Any]]:
    """Quantise the linear layers of an untyped graph: those with constant weights that may leave float32.

    A layer whose input has outliers stays as it is, see `STEPS`; it is in the report.

    Args:
        model: float32; it is changed on the way.
        float32: nodes that stay in float32, and everything after the mean over the tokens.
        feeds: inputs of one run for each calibration clip.
        symmetric: whether zero stands for zero in the grid of the inputs, as TensorRT demands; else the grid spans
            the range, and what follows a GELU gets one bit more.
        folder: for the graph with its further outputs.

    Returns:
        The graph, and for the sidecar: `layers` of all linear layers `of` the blocks, those that were `left`,
        `calibration_clips`, `symmetric`.

    Raises:
        GateError: no layer can be quantised.
    """
    products = [node for node in model.graph if node.op_type == "MatMul" and (node.name or "").startswith("blocks.")]
    linear = [node for node in products if array(node.inputs[1]) is not None]
    able = [node for node in linear if node not in float32]
    spreads = _calibrate(model, able, feeds, folder / "spreads.onnx")
    steps = {name: spread.steps(symmetric) for name, spread in spreads.items()}
    chosen = [node for node in able if steps[str(node.name)] >= STEPS]
    left = [{"at": str(node.name), "steps": steps.get(str(node.name))} for node in linear if node not in chosen]
    if not chosen:
        raise GateError("no linear layer can be int8", found=f"{len(linear)} linear layers", fix="export without int8")
    for node in chosen:
        _bias_row(node)
    tidy(model)
    report = {
        "layers": len(chosen),
        "of": len(linear),
        "left": left,
        "steps_wanted": STEPS,
        "symmetric": symmetric,
        "calibration_clips": len(feeds),
    }
    return _with_scales(model, {str(node.name): spreads[str(node.name)] for node in chosen}, symmetric), report


class _Spread(NamedTuple):
    """What calibration clips showed of one layer's input: extremes, zero among them, and root mean square."""

    low: float
    high: float
    rms: float

    def steps(self, symmetric: bool) -> float:
        """Steps of the 8-bit grid in the root mean square."""
        step = max(self.high, -self.low) / 127 if symmetric else (self.high - self.low) / 255
        return self.rms / step if step > 0 else math.inf


def _calibrate(model: ir.Model, layers: Sequence[ir.Node], feeds: Feeds, path: Path) -> dict[str, _Spread]:
    """Spread of each layer's input, by the layer's name.

    ONNX Runtime's own calibration would keep every attention's scores until a run ends: 4 GB for ViT-S.
    """
    names = {str(node.name) for node in layers}
    probe = model.clone()
    for node in [node for node in probe.graph if node.name in names]:
        x = node.inputs[0]
        assert x is not None
        squares = insert(node, "Mul", [x, x], f"{node.name}:squares")
        for kind, source in (("ReduceMax", x), ("ReduceMin", x), ("ReduceMean", squares)):
            value = insert(node, kind, [source], f"{node.name}:{kind}", keepdims=0)
            value.type, value.shape = ir.TensorType(FLOAT), ir.Shape([])
            probe.graph.outputs.append(value)
    ir.save(probe, path)
    session = OrtSession(path, keep_memory=False)
    runs = [session.run(feed) for feed in feeds]
    return {
        name: _Spread(
            min(0.0, *(float(run[f"{name}:ReduceMin"]) for run in runs)),
            max(0.0, *(float(run[f"{name}:ReduceMax"]) for run in runs)),
            math.sqrt(sum(float(run[f"{name}:ReduceMean"]) for run in runs) / len(runs)),
        )
        for name in names
    }


def _bias_row(layer: ir.Node) -> None:
    """The bias of a layer as a row `[1, 1, C]`.

    ONNX Runtime joins MatMul and the addition of a vector to a Gemm before it looks for int8, and has no int8 kernel
    for that: the layer would run in float32 on weights that are widened each time, 1.6 times as slow as without int8.
    """
    for use in list(layer.outputs[0].uses()):
        bias = use.node.inputs[1 - use.idx] if use.node.op_type == "Add" else None
        values, shape = array(bias), layer.outputs[0].shape
        if bias is not None and values is not None and shape is not None and values.ndim == 1 and layer.graph:
            row = values.reshape((1,) * (len(shape) - 1) + (-1,))
            use.node.replace_input_with(1 - use.idx, constant(layer.graph, f"{bias.name}/row", row))


def _with_scales(model: ir.Model, spreads: Mapping[str, _Spread], symmetric: bool) -> ir.Model:
    """What ONNX Runtime's quantiser makes of the named layers, with the model's own metadata and opsets."""
    ranges = {
        str(node.inputs[0].name): (np.float32(spreads[str(node.name)].low), np.float32(spreads[str(node.name)].high))
        for node in model.graph
        if node.name in spreads and node.inputs[0]
    }
    quantizer = QDQQuantizer(
        ir.to_proto(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=list(spreads),
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={
            "ActivationSymmetric": symmetric,
            "MatMulConstBOnly": True,
            "MinimumRealRange": RANGE,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "DefaultTensorType": int(FLOAT),  # of another domain's results, whose type ONNX cannot infer
        },
    )
    quantizer.quantize_model()
    result = ir.from_proto(quantizer.model.model)
    result.graph.sort()
    result.opset_imports.clear()
    result.opset_imports.update(model.opset_imports)
    for node in result.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = (node.name or "").replace(NORM, "/normalised")  # a norm's name would keep it in float32
    tidy(result)
    return result


def judged(
    report: Mapping[str, Any], model: ir.Model, parity: Mapping[str, Any], tolerance: Tolerance
) -> dict[str, Any]:
    """The finished `int8` entry of the sidecar.

    Args:
        report: from `quantise`.
        model: the typed graph.
        parity: what its logits are, against float32, on clips that it was not calibrated on.
        tolerance: the bounds.

    Returns:
        `report` with `weight_bytes` (as a share of what they would be without int8), `judged_clips`, and on those
        `drift`, and `accuracy` where their classes are known.

    Raises:
        GateError: int8 moves the logits too far.
    """
    moved = {key: parity[key] for key in ("max_abs", "kl", "centred_cosine", "top1_agreement")}
    entry = {
        **report,
        "weight_bytes": _weight_bytes(model),
        "judged_clips": parity["clips"],
        "drift": moved,
        "accuracy": parity.get("accuracy"),
    }
    broken = failures(parity, tolerance.model_dump())
    if broken:
        raise GateError(
            f"int8 costs too much: {'; '.join(broken)}",
            found=describe(entry),
            fix="export without int8, calibrate on more clips (--count), or raise int8_tolerance if you can bear it",
        )
    return entry


def _weight_bytes(model: ir.Model) -> float:
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    saved = 0
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and (weight := array(node.inputs[0])) is not None:
            scale = array(node.inputs[1])
            assert scale is not None
            saved += weight.size * (scale.itemsize - 1) - scale.nbytes - scale.size
    return float(stored / (stored + saved))


def describe(entry: Mapping[str, Any]) -> str:
    """The `int8` entry of a sidecar in one line."""
    moved, accuracy = entry["drift"], entry["accuracy"]
    cosine = "" if moved["centred_cosine"] is None else f", centred cosine {moved['centred_cosine']:.4f}"
    right = ""
    if accuracy:
        right = f", accuracy {accuracy['before']:.1%} -> {accuracy['after']:.1%} on {accuracy['clips']} clips"
    return (
        f"int8 in {entry['layers']} of {entry['of']} linear layers (calibrated on {entry['calibration_clips']} clips, "
        f"judged on {entry['judged_clips']} others), "
        f"{entry['weight_bytes']:.0%} of the weight bytes{cosine}{right}"
    )
