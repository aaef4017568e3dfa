"""What each version of trtexec accepts: it refuses a flag that it does not know, and no two majors know the same ones.

Source: NVIDIA/TensorRT, samples/common/sampleOptions.cpp of release/8.5 to v11.1; 11.2 to 11.4 accept what 11.1 does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from apt_edge.errors import ConfigError

VERSIONS = ("8.5", "8.6", "10.3", "10.13", "10.16", "11.0", "11.1", "11.2", "11.3", "11.4")


class Flag(NamedTuple):
    """Versions that accept a flag.

    Attributes:
        first: the first one, as `major` or `major.minor`.
        last: the last one; `10` means every 10.x, empty means all that came since.
        no_op: from here on the flag is accepted and does nothing; empty when it always does something.
    """

    first: str = "8.5"
    last: str = ""
    no_op: str = ""


ALWAYS = Flag()
WEAK_TYPING = Flag(last="10")
ON_BY_DEFAULT = Flag(no_op="11")

FLAGS = {
    # what to load, write and show
    "--onnx": ALWAYS,
    "--saveEngine": ALWAYS,
    "--loadEngine": ALWAYS,
    "--timingCacheFile": ALWAYS,
    "--profilingVerbosity": ALWAYS,
    "--exportLayerInfo": ALWAYS,
    "--dumpLayerInfo": ALWAYS,
    "--exportTimes": ALWAYS,
    "--exportOutput": ALWAYS,
    "--exportProfile": ALWAYS,
    "--dumpProfile": ALWAYS,
    "--loadInputs": ALWAYS,
    "--verbose": ALWAYS,
    "--help": ALWAYS,
    # how to build
    "--minShapes": ALWAYS,
    "--optShapes": ALWAYS,
    "--maxShapes": ALWAYS,
    "--inputIOFormats": ALWAYS,
    "--memPoolSize": ALWAYS,
    "--refit": ALWAYS,
    "--buildOnly": Flag(last="9"),
    "--workspace": Flag(last="9"),
    "--skipInference": Flag(first="8.6"),
    "--builderOptimizationLevel": Flag(first="8.6"),
    "--versionCompatible": Flag(first="8.6"),
    "--hardwareCompatibilityLevel": Flag(first="8.6"),
    "--stripWeights": Flag(first="10"),
    "--allowWeightStreaming": Flag(first="10"),
    "--markDebug": Flag(first="10"),
    "--markUnfusedTensorsAsDebugTensors": Flag(first="10.12"),
    "--refitFromOnnx": Flag(first="10.14"),
    "--setBuildRoute": Flag(first="11.1"),
    "--tuneBuildRoutes": Flag(first="11.1"),
    # types
    "--fp16": WEAK_TYPING,
    "--int8": WEAK_TYPING,
    "--best": WEAK_TYPING,
    "--fp8": Flag(first="8.6", last="10"),
    "--bf16": Flag(first="9", last="10"),
    "--precisionConstraints": WEAK_TYPING,
    "--layerPrecisions": WEAK_TYPING,
    "--layerOutputTypes": WEAK_TYPING,
    "--stronglyTyped": Flag(first="9", no_op="11"),
    # how to run
    "--shapes": ALWAYS,
    "--iterations": ALWAYS,
    "--warmUp": ALWAYS,
    "--duration": ALWAYS,
    "--percentile": ALWAYS,
    "--infStreams": Flag(first="8.6"),
    "--useProfile": Flag(first="9"),
    "--useCudaGraph": ON_BY_DEFAULT,
    "--useSpinWait": ON_BY_DEFAULT,
    "--noDataTransfers": ON_BY_DEFAULT,
    "--separateProfileRun": ON_BY_DEFAULT,
    "--noCudaGraph": Flag(first="11"),
    "--noSpinWait": Flag(first="11"),
    "--includeDataTransfers": Flag(first="11"),
    "--loadRefOutputs": Flag(first="11.1"),
    "--accuracyAlgorithm": Flag(first="11.1"),
    "--accuracyThreshold": Flag(first="11.1"),
}


def parse(version: str) -> tuple[int, int]:
    """Major and minor of a TensorRT version; raises ConfigError outside of what the table covers."""
    parts = version.split(".")
    number = (int(parts[0]), int(parts[1])) if len(parts) > 1 and all(part.isdigit() for part in parts) else (0, 0)
    if not _numbers(VERSIONS[0]) <= number <= _numbers(VERSIONS[-1]):
        raise ConfigError(
            f"the trtexec of TensorRT {version!r} is not known",
            found=f"known are {VERSIONS[0]} to {VERSIONS[-1]}",
            fix="set the target's version to that of the device, as in 10.3",
        )
    return number


def accepts(version: str, flag: str) -> bool:
    """Whether the trtexec of a version accepts a flag (given without its value)."""
    if flag not in FLAGS:
        return False
    number, (first, last, _) = parse(version), FLAGS[flag]
    return _numbers(first) <= number and (not last or number[: len(_numbers(last))] <= _numbers(last))


def works(version: str, flag: str) -> bool:
    """Whether a version accepts a flag and it makes a difference there."""
    no_op = FLAGS[flag].no_op if flag in FLAGS else ""
    return accepts(version, flag) and not (no_op and parse(version) >= _numbers(no_op))


def check(version: str, arguments: Iterable[str]) -> None:
    """Raises ConfigError, naming them, when a version lacks flags of a command line (`--flag` or `--flag=value`)."""
    lacking = [flag for flag in (argument.split("=", 1)[0] for argument in arguments) if not accepts(version, flag)]
    if lacking:
        raise ConfigError(
            f"the trtexec of TensorRT {version} would refuse the line",
            found=f"it lacks {', '.join(lacking)}",
            fix="take the lines that export.trtexec.lines writes for this version",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
