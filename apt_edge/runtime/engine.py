"""Whether an engine that was built on a device has the types and the fused attentions that its graph asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from apt_edge.errors import GateError
from apt_edge.runtime.trtexec import COMPUTE, Layer

# Up to this version a build may leave attention unfused, and types untold: JetPack 5 is not expected to fuse, JetPack 6
# not sure to.
LENIENT = (10, 3)
# Share of the compute layers that may be float32 where the graph plans none: the classifier, and what surrounds it.
FLOAT32_SHARE = 0.25


def check_layers(layers: list[Layer], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the engine has the types and the fused attentions that the target asks for.

    Args:
        layers: of the engine that was built on the device.
        facts: the sidecar.

    Returns:
        `layers`, `compute_layers`, `precision` (type -> number of compute layers), `fused_attention`, `attention`,
        `reformats`, and `warnings` for the reader.

    Raises:
        GateError: half precision was asked for, and more compute layers are float32 than a quarter or than the graph
            has float32 nodes of that kind, or one is of the other half type; or, in later versions than `LENIENT`, most
            types are not told or an attention is not fused; or the file has only names, so that none can be told.
    """
    version = str(facts["target"]["version"])
    asked = (facts["target"] if version.startswith("8.") else facts)["precision"]  # 8 has float32 graphs
    half = asked in ("float16", "bfloat16")
    if half and not any(layer.detailed for layer in layers):
        raise GateError(
            "the types of the engine's layers are not known",
            found=f"{len(layers)} layers, with names alone",
            fix="build again with --profilingVerbosity=detailed",
        )
    compute = [layer for layer in layers if layer.compute and not layer.reformat]
    types = Counter(layer.precision or "unknown" for layer in compute)
    report: dict[str, Any] = {
        "layers": len(layers),
        "compute_layers": len(compute),
        "precision": dict(types.most_common()),
        "fused_attention": sum(layer.fused_attention for layer in layers),
        "attention": facts["attention"],
        "reformats": sum(layer.reformat for layer in layers),
        "warnings": [],
    }
    if half:
        _check_types(report, types, asked, version, facts.get("float32_nodes", []))
        _check_fusion(report, layers, version)
    return report


def _check_types(
    report: dict[str, Any], types: Mapping[str, int], asked: str, version: str, kept: Iterable[str]
) -> None:
    total = sum(types.values())
    known = total - types.get("unknown", 0)
    other = {"float16": "bfloat16", "bfloat16": "float16"}[asked]
    # A layer is a whole chain of nodes, so that the nodes' names do not say which layers may be float32: only how many.
    planned = sum(bool(COMPUTE.search(name.rpartition("/")[2])) for name in kept)
    wrong = "float32" if types.get("float32", 0) > max(planned, FLOAT32_SHARE * known) else other
    if types.get(other, 0) or wrong == "float32":
        raise GateError(
            f"{asked} was asked for, and the engine computes in {wrong}",
            found=f"{types[wrong]} of {known} compute layers in {wrong}, {planned} nodes of the graph in float32",
            fix="build model.onnx with build.sh as it is; does this device have fast half precision?"
            if version.startswith("8.")
            else "build the model.onnx of this export with build.sh, which makes the graph's types binding",
        )
    if 2 * known < total or not known:
        unproven = f"TensorRT {version} tells the type of {known} of {total} compute layers: {asked} is not proven"
        if not _lenient(version):
            raise GateError(
                unproven,
                found=f"types {', '.join(types) or 'of no layer'}",
                fix="build again with build.sh, which asks for the layers in detail",
            )
        report["warnings"].append(unproven)


def _lenient(version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) <= LENIENT


def _check_fusion(report: dict[str, Any], layers: list[Layer], version: str) -> None:
    fused, attention = report["fused_attention"], report["attention"]
    if fused >= attention:
        return
    wrong = f"{fused} of {attention} attentions are fused"
    if _lenient(version):
        report["warnings"].append(f"{wrong}: TensorRT {version} may do without, which costs time and memory")
        return
    raise GateError(
        wrong,
        found="layers " + ", ".join(layer.name for layer in layers[:40]),
        fix="export again for this device's TensorRT, then build with build.sh; report it if that does not help",
    )
