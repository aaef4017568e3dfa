"""Muon: momentum whose matrix updates are orthogonalised by a Newton-Schulz iteration.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the update scaled to AdamW's
size as in Liu et al., "Muon is Scalable for LLM Training" (arXiv 2502.16982), so that both share one learning rate.
Used for the matrices inside the blocks when a backbone is trained from nothing in minutes: it needs fewer clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: fast growth of small singular values
ITERATIONS = 4


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters.

    Args:
        parameters: matrices only.
        lr: learning rate on AdamW's scale.
        momentum: decay of the momentum, used in Nesterov's form.
        weight_decay: decoupled, times `lr`.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix; matrices of one shape are orthogonalised in one batch."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                shapes.setdefault((parameter.shape[0], parameter.shape[1]), []).append(parameter)
            for (rows, columns), parameters in shapes.items():
                steps = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                scale = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalised(steps), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=scale)

    def _momentum(self, parameter: Tensor, decay: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None, "Muon was given a matrix that is not part of the loss"
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - decay)
        return gradient.lerp(buffer, decay)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Replace the singular values of each matrix `[M, rows, columns]` by values near 1 (0.7 to 1.2).

    The iteration x <- (a + b G + c G^2) x with G = x x^T is run on the small Gram matrix G alone and applied once at
    the end: half the products for the wide matrices of an MLP. It needs float32, as errors grow with the square.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    eye = torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    gram, total = x @ x.mT, eye.expand(x.shape[0], -1, -1)
    for iteration in range(ITERATIONS):
        factor = a * eye + b * gram + c * gram @ gram
        total = factor @ total
        if iteration + 1 < ITERATIONS:
            gram = factor @ gram @ factor
    x = total @ x
    return x if wide is matrices else x.mT
