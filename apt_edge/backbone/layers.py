"""What the backbone is made of beside its blocks: norm, activations, class tokens, first weights, table of positions.

Shapes: B batch, N video tokens, S time steps, C width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm in float32 at least, whatever the stream's precision: x^2 overflows in float16 at |x| = 256."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"videomae": F.gelu, "clip": quick_gelu}  # of each family


def behind_class_tokens(x_BNC: Tensor, steps: int) -> Tensor:
    """`[B, N, C]` as `[B, N + S, C]`: each time step behind a zero, which its position makes a class token."""
    x_BSNC = x_BNC.unflatten(1, (steps, -1))
    return torch.cat([torch.zeros_like(x_BSNC[:, :, :1]), x_BSNC], dim=2).flatten(1, 2)


def initialise(module: nn.Module) -> None:
    """First weights of a linear layer: normal 0.02 cut at two units, biases zero; others keep PyTorch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sincos_positions(tokens: int, width: int) -> Tensor:
    """Fixed 1-D sin-cos table `[1, N, C]`: even channels sine, odd cosine (VideoMAE modeling_finetune.py:174-184)."""
    # On the CPU even where modules are made without memory: it is computed, not loaded into them.
    channel = torch.arange(width, dtype=torch.float64, device="cpu")
    rate = torch.pow(10000, 2 * torch.div(channel, 2, rounding_mode="floor") / width)
    angle = torch.arange(tokens, dtype=torch.float64, device="cpu")[:, None] / rate
    angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    return angle.float()[None]
