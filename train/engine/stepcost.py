"""What one step of training costs: arithmetic and peak memory, both exact and repeatable; `bench.steps` adds the time.

The clips are noise: a cost does not depend on what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from apt_edge.methods.tuned import TunedModel
from train.engine.optim import Rates, adamw

Shape = tuple[int, ...]


def _forward_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def _backward_flops(grad: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# PyTorch's counter knows the fused attention of GPUs alone.
FUSED_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}


@dataclass(frozen=True)
class Step:
    """One optimiser step on one batch; calling it takes the step and waits for it.

    Attributes:
        model: what is trained.
        optimiser: over its trained tensors.
        inputs: clips `[B, 3, T, H, W]`, or their prefixes.
        labels: classes `[B]`.
        cached: `inputs` are prefixes: the blocks below the method's first one are not run.
        label_smoothing: of the loss.
        autocast: type of the forward pass's products; None computes in the weights' own.
    """

    model: TunedModel
    optimiser: torch.optim.Optimizer
    inputs: Tensor
    labels: Tensor
    cached: bool
    label_smoothing: float
    autocast: torch.dtype | None = None

    def __call__(self) -> None:
        """Forward, backward, update; the gradients are dropped, so none lives on into the next forward pass."""
        with torch.autocast(self.inputs.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.model(self.inputs, from_prefix=self.cached)
        F.cross_entropy(logits.float(), self.labels, label_smoothing=self.label_smoothing).backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.inputs.is_cuda:
            torch.cuda.synchronize(self.inputs.device)

    def held(self) -> Iterable[Tensor]:
        """What lives between two steps: weights, constants, the optimiser's state, the batch."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        for state in self.optimiser.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
        yield from (self.inputs, self.labels)


def make_step(
    model: TunedModel,
    batch: int,
    cached: bool = False,
    optim: Rates | None = None,
    seed: int = 0,
    autocast: torch.dtype | None = None,
) -> Step:
    """A step as `train.tune` takes it, on clips of noise, on the model's device.

    Args:
        model: moved to its device before; it is put into training mode.
        batch: clips B.
        cached: begin with the prefix, which is computed here.
        optim: rates and loss; a recipe's defaults when None.
        seed: of the clips.
        autocast: type of the forward pass's products; None computes in the weights' own.
    """
    if optim is None:
        from train.recipe import Optim  # here: a machine without pydantic gives its own

        optim = Optim()
    config, device = model.vit.config, next(model.parameters()).device
    noise = torch.Generator().manual_seed(seed)
    clips = torch.randn(batch, 3, config.frames, config.size, config.size, generator=noise).to(device)
    labels = (torch.arange(batch) % model.head.linear.out_features).to(device)
    model.train()
    optimiser = adamw(model, optim)
    inputs = model.prefix(clips) if cached else clips
    return Step(model, optimiser, inputs, labels, cached, optim.label_smoothing, autocast)


def step_macs(step: Step) -> int:
    """Multiply-accumulates of one step's products, forward and backward; everything else counts nothing.

    A fused attention's backward pass computes the logits once more: 5 products for the forward pass's 2.
    """
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        step()
    return int(counter.get_total_flops()) // 2


def peak_bytes(step: Step) -> int:
    """Most bytes of tensors that are alive at once in a step: weights, optimiser state, activations, gradients.

    On a CPU what PyTorch's own allocator hands out, not what the process takes from the system. One step is taken
    before, so that the optimiser's state exists.
    """
    step()
    return held_bytes(step.held()) + peak_above(step, step.inputs.device)


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind the tensors, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak_above(run: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak of `run` beyond those that are allocated when it starts."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as profiler:
        run()
    events = profiler.kineto_results.events()
    changes = sorted(((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"), key=_time)
    peak = alive = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def _time(change: tuple[int, int]) -> int:
    return change[0]
