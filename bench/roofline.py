"""How long a vision transformer takes on a device that is not here: a roofline, fitted on published latencies.

Each group of layers takes max(MACs / (peak x a), bytes / (bandwidth x b)) + c, summed over groups and blocks.
Efficiencies a and b, at most 1, and the seconds c of a launch are the same for every device: those with the least
absolute log-error over `published.toml`, each device counting alike. A device with published points of its own, or of
another one with the same architecture, is also multiplied by how much longer than fitted these took (geometric mean).

In back-tests every published point is predicted without its device, and, where its device has points of other models,
without its model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from apt_edge.backbone.vit import VitConfig
from apt_edge.config import Strict, load_toml
from apt_edge.errors import ConfigError
from apt_edge.runtime.statistics import percentile
from apt_edge.tables import Row

HERE = Path(__file__).parent
FLOAT16_BYTES = 2
ELEMENTWISE_PASSES = 10  # over [N, C] a block: two norms read and write, two additions read twice and write
SCORE_PASSES = 4  # over [H, N, K] where attention is not fused: product writes, softmax reads and writes, product reads
COMPUTE = np.geomspace(0.15, 1, 30)[:, None, None]
BANDWIDTH = np.geomspace(0.1, 1, 20)[:, None]
LAUNCH_S = np.array([0, *np.geomspace(1e-6, 60e-6, 24)])

Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(ge=1)]


class Device(Strict):
    """Peak rates of a device, 10^12 float16 MACs and 10^9 bytes a second, and where they stand.

    `like` is a device of the same architecture whose published points serve this one, which has none.
    """

    name: str
    like: str | None = None
    float16_tmacs: Positive
    bandwidth_gbs: Positive
    source: str


class Devices(Strict):
    """`bench/devices.toml`."""

    devices: dict[str, Device]


class Series(Strict):
    """Published latencies of one image model on one device: ms of each batch."""

    device: str
    model: str
    width: Whole
    depth: Whole
    heads: Whole
    size: Whole
    patch: Whole
    fused: bool = True
    batch: list[Whole]
    latency_ms: list[Positive]
    source: str

    @model_validator(mode="after")
    def _pairs(self) -> Series:
        if len(self.batch) != len(self.latency_ms):
            raise ValueError(f"{self.model} on {self.device} has {len(self.batch)} batches and other latencies")
        return self


class Published(Strict):
    """`bench/published.toml`."""

    series: list[Series]


class Group(NamedTuple):
    """Layers that run together: MACs and bytes of a batch, and how often they run in a model."""

    macs: float
    bytes: float
    runs: int


def groups(config: VitConfig, batch: int, rows: int = 0, keys: int = 0, fused: bool = True) -> list[Group]:
    """Patch embedding, qkv, attention, projection, MLP, and norms with additions: what a float16 model does.

    Args:
        config: the backbone.
        batch: clips a run.
        rows: tokens that every block computes beside the video's.
        keys: constant keys and values of every block.
        fused: the attention's scores stay on the chip.
    """
    width, pixels, hidden = config.width, 3 * config.tubelet * config.patch**2, config.hidden
    n, k = config.tokens + rows, config.tokens // config.steps + rows + keys
    scores = 0 if fused else SCORE_PASSES * config.heads * n * k

    def group(macs: int, weights: int, activations: int, runs: int = config.depth) -> Group:
        return Group(batch * macs, FLOAT16_BYTES * (weights + batch * activations), runs)

    return [
        group(n * pixels * width, pixels * width, n * (pixels + width), 1),
        group(3 * n * width**2, 3 * width**2, 4 * n * width),
        group(2 * n * k * width, 2 * keys * width, 4 * n * width + scores),
        group(n * width**2, width**2, 2 * n * width),
        group(2 * n * width * hidden, 2 * width * hidden, 2 * n * (width + hidden)),
        group(0, 0, ELEMENTWISE_PASSES * n * width),
    ]


def seconds(parts: list[Group], device: Device) -> np.ndarray:
    """Time of one batch for every combination of the three numbers, `[COMPUTE, BANDWIDTH, LAUNCH_S]`."""
    total = np.zeros(np.broadcast_shapes(COMPUTE.shape, BANDWIDTH.shape, LAUNCH_S.shape))
    for part in parts:
        compute = part.macs / (device.float16_tmacs * 1e12 * COMPUTE)
        memory = part.bytes / (device.bandwidth_gbs * 1e9 * BANDWIDTH)
        total += part.runs * (np.maximum(compute, memory) + LAUNCH_S)
    return total


class Roofline:
    """The model fitted on published points; raises ConfigError when one is of a device without rates."""

    def __init__(self, devices: dict[str, Device], series: list[Series]) -> None:
        self.devices = devices
        self.points: list[Row] = []
        logs = []
        for item in series:
            config = VitConfig(item.width, item.depth, item.heads, 1, item.size, 1, item.patch)
            for batch, ms in zip(item.batch, item.latency_ms, strict=True):
                facts: Row = {"device": item.device, "model": item.model, "tokens": config.tokens, "batch": batch}
                self.points.append({"kind": "back-test", **facts, "published_ms": ms, "source": item.source})
                took = seconds(groups(config, batch, fused=item.fused), self.device(item.device))
                logs.append(np.log(took / (ms / 1e3)))
        self._logs = np.stack(logs)  # log(fitted / published) `[points, COMPUTE, BANDWIDTH, LAUNCH_S]`
        self._device, self._model = (np.array([p[key] for p in self.points]) for key in ("device", "model"))

    def device(self, name: str) -> Device:
        """Look up a device; raises ConfigError naming the known ones."""
        if name not in self.devices:
            raise ConfigError(
                f"there is no device {name!r}",
                fix=f"choose one of {', '.join(self.devices)}, or add its data sheet's rates to bench/devices.toml",
            )
        return self.devices[name]

    def anchors(self, device: str) -> list[str]:
        """Models of the points that are published for a device itself."""
        return list(dict.fromkeys(point["model"] for point in self.points if point["device"] == device))

    def predict(self, parts: list[Group], device: str) -> float:
        """Seconds of a batch on a device."""
        use, rates = np.ones(len(self.points), bool), self.device(device)
        best = self._fit(use)
        return float(seconds(parts, rates)[best]) * self._factor(rates.like or device, use, best)

    def _fit(self, use: np.ndarray) -> tuple[int, ...]:
        """Indices of the three numbers with the least error over the points of the mask `use`."""
        weights = np.array([1 / np.sum(self._device[use] == name) for name in self._device[use]])
        error = np.tensordot(weights, np.abs(self._logs[use]), 1)
        return tuple(int(index) for index in np.unravel_index(error.argmin(), error.shape))

    def _factor(self, device: str, use: np.ndarray, best: tuple[int, ...]) -> float:
        logs = self._logs[use & (self._device == device)]
        return float(np.exp(-np.mean([points[best] for points in logs]))) if len(logs) else 1.0

    def backtest(self) -> list[Row]:
        """Every point with `without_device` and `without_model`: predicted over published, null without others."""
        rows = []
        for device, model in dict.fromkeys((point["device"], point["model"]) for point in self.points):
            same = self._device == device
            others = ~(same & (self._model == model))
            elsewhere, here = self._fit(~same), self._fit(others)
            factor = self._factor(device, others, here) if (same & others).any() else None
            for index in np.flatnonzero(~others):
                fitted = np.exp(self._logs[index])
                known = None if factor is None else float(fitted[here]) * factor
                rows.append(self.points[index] | {"without_device": float(fitted[elsewhere]), "without_model": known})
        return rows

    def error(self, anchored: bool) -> dict[str, Any]:
        """Back-test of devices with published points of other models, or of devices without any.

        Returns:
            `median` and `worst` |relative error|, `factor` within which nine of ten lie, `points`, and `least_tokens`
            and `most_tokens` of their models.
        """
        key = "without_model" if anchored else "without_device"
        points = [row for row in self.backtest() if row[key] is not None]
        ratios, tokens = np.array([row[key] for row in points]), [row["tokens"] for row in points]
        relative = np.abs(ratios - 1)
        return {
            "median": float(np.median(relative)),
            "worst": float(relative.max()),
            "factor": float(np.exp(percentile(np.abs(np.log(ratios)), 90))),
            "points": len(points),
            "least_tokens": min(tokens),
            "most_tokens": max(tokens),
        }


def load_roofline() -> Roofline:
    """The model fitted on the shipped `published.toml` with the rates of `devices.toml`."""
    devices = load_toml(HERE / "devices.toml", Devices).devices
    return Roofline(devices, load_toml(HERE / "published.toml", Published).series)
