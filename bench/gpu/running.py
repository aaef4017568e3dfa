"""Running a model over static buffers, as a CUDA graph or eagerly, and what takes its time, memory and energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apt_edge.runtime.energy import Meter, energy_per_run
from apt_edge.runtime.machine import device_name, machine
from apt_edge.runtime.timing import Clock, Run, wall_clock
from train.engine.stepcost import held_bytes, peak_above

WARM_UPS = 3  # before a capture: lazy initialisation of the libraries cannot be captured
ENERGY_SECONDS, BURST_SECONDS = 1.5, 0.05  # of each contender; NVML's counter advances every 0.02 to 0.1 s
BALLAST_BYTES = 256 << 20  # more than the second-level cache of any GPU


class Running:
    """A model that runs again and again over the same input and output tensors.

    Args:
        model: in evaluation mode, on the device of `clips`.
        clips: the input, read anew in every run.
        graph: capture a CUDA graph and replay it; else every run launches its kernels one by one.

    Attributes:
        logits: what the last run left; a graph writes it in place.
    """

    def __init__(self, model: nn.Module, clips: Tensor, graph: bool) -> None:
        self.model, self.clips = model, clips
        self.graph: torch.cuda.CUDAGraph | None = None
        if not graph:
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            self._forward()
        self.graph = captured
        captured.replay()

    def __call__(self) -> None:
        """Start one run; a GPU is not waited for."""
        if self.graph is None:
            self._forward()
        else:
            self.graph.replay()

    def _forward(self) -> None:
        with torch.no_grad():
            self.logits = self.model(self.clips)

    def result(self) -> np.ndarray:
        """Run once and fetch the logits `[B, classes]`."""
        self()
        return self.logits.float().cpu().numpy()


def peak_mb(model: nn.Module, clips: Tensor) -> float:
    """Most megabytes alive at once in an eager run of this model alone: weights, constants, clips, activations."""

    def forward() -> None:
        with torch.no_grad():
            model(clips)

    forward()
    held = held_bytes([*model.parameters(), *model.buffers(), clips])
    return (held + peak_above(forward, clips.device)) / 1e6


def session_name(device: torch.device, graph: bool) -> str:
    """The session as rows name it."""
    if device.type != "cuda":
        return "pytorch-eager"
    return "pytorch-cuda-graph" if graph else "pytorch-cuda-eager"


def circumstances(device: torch.device) -> dict[str, Any]:
    """The environment of a row; to be asked right after a measurement, while the clocks are still those of work.

    Returns:
        `apt_edge.runtime.machine.machine`, and for a GPU `cuda`: what PyTorch knows of it.
    """
    facts = machine(threads=torch.get_num_threads())
    if device.type != "cuda":
        return facts
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "cuda": {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_mb": properties.total_memory // 10**6,
            "multiprocessors": properties.multi_processor_count,
            "runtime": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    }


def hardware(environment: Mapping[str, Any]) -> str:
    """What headings call the device of an environment: the GPU that PyTorch used, else the processor."""
    return environment["cuda"]["device"] if "cuda" in environment else device_name(dict(environment))


def device_clock(device: torch.device) -> Clock:
    """What takes the time of work on that device."""
    return EventClock() if device.type == "cuda" else wall_clock


def clock_name(clock: Clock) -> str:
    """What rows call a clock: `cuda events` take the model alone, its clips on the device and caches cold."""
    return "cuda events" if isinstance(clock, EventClock) else "host"


class EventClock:
    """Milliseconds of one run by the GPU's own events.

    Before a run it overwrites a buffer larger than the caches. So every run finds the caches as other work would leave
    them, and the host asks for the run while the GPU is still busy: what launching costs the host is hidden as long as
    it is shorter than that.
    """

    def __init__(self) -> None:
        self.ballast = torch.empty(BALLAST_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, run: Run) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.ballast.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def energy(contenders: Mapping[str, Run], meter: Meter | None, seconds: float) -> dict[str, dict[str, Any] | None]:
    """What one run of each contender spends, running alone and back to back, for `seconds` of all of them together.

    Returns:
        `joules` of a run and its `source` by name; None where the machine does not meter it.
    """
    if meter is None:
        return dict.fromkeys(contenders)
    alone = min(ENERGY_SECONDS, seconds / len(contenders))
    bursts: dict[str, Run] = {}
    lengths: dict[str, int] = {}
    for name, run in contenders.items():
        once = np.median([wall_clock(_waited(run, 1)) for _ in range(3)]) / 1e3
        lengths[name] = max(1, int(BURST_SECONDS / once))  # reading the counter after every single run would idle it
        bursts[name] = _waited(run, lengths[name])
    try:
        spent = energy_per_run(bursts, meter, alone)
    except OSError:  # the driver counts no longer: the latencies are worth keeping
        return dict.fromkeys(contenders)
    return {
        name: None if joules is None else {"joules": joules / lengths[name], "source": meter.source}
        for name, joules in spent.items()
    }


def _waited(run: Run, times: int) -> Run:
    def runs() -> None:
        for _ in range(times):
            run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return runs
